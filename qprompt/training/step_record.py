"""The record of quantization through a run, ``quantization.npz``, which `QuantizedPrompts` keeps."""

import functools
import logging
import os.path as osp
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.quantization.api import count_ahead
from qprompt.quantization.recorder import Recorder

if TYPE_CHECKING:
    from dassl.engine import TrainerX as _Trainer
else:
    _Trainer = object  # whatever trainer follows in the bases; Dassl is not needed to import this module

log = logging.getLogger(__name__)


class RecordedSteps(_Trainer):
    """The part of `QuantizedPrompts` that records its steps. No failure of this diagnostic ends a run."""

    prompted: nn.Module
    recorder: Recorder | None = None
    _measured: Any = None

    def before_train(self):
        super().before_train()
        self.recorder = Recorder(osp.join(self.output_dir, "quantization.npz"), self._writer)

    def _measure(self, refitted: list[str]) -> None:
        """Measure this step; what is measured stays on the device until the trainer reads it (`also_read`)."""
        self._measured = None
        self._record(lambda recorder: setattr(self, "_measured", recorder.measure(self.prompted, refitted)))

    def _write_unread(self) -> None:
        """Write what was measured if the trainer did not ask `also_read`."""
        if self._measured is not None:
            self._write_measured(self._measured.numbers.cpu().numpy())

    def also_read(self) -> list[tuple[Tensor, Callable[[np.ndarray], None]]]:
        """Return what to read from the device with the loss: for the record, and for the next `refresh_`."""
        counted = count_ahead(self.prompted)
        found: list[tuple[Tensor, Callable[[np.ndarray], None]]] = []
        if counted is not None:
            found.append((counted.numbers(), functools.partial(counted.take, ahead=True)))
        if self._measured is not None:
            found.append((self._measured.numbers, self._write_measured))
        return found

    def _write_measured(self, numbers: np.ndarray) -> None:
        measured, self._measured = self._measured, None
        self._record(lambda recorder: recorder.write(measured, numbers))

    def _record(self, entry: Callable[[Recorder], None]) -> None:
        """Make an entry in the record."""
        if self.recorder is None:
            return
        try:
            entry(self.recorder)
        except UserError:
            raise
        except Exception as error:
            log.warning("quantization.npz ends here: %s: %s", type(error).__name__, error)
            self.recorder = None

    def after_epoch(self):
        # Weight histograms through training, as in the paper's figure: about 40 a run (every 5 of 200 epochs).
        if (self.epoch + 1) % max(1, self.max_epoch // 40) == 0:
            self._record(lambda recorder: recorder.histogram(self.prompted))
        super().after_epoch()
