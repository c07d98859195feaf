"""The prompt file of a run: what `QuantizedPrompts` stores, and what it knows of it."""

import contextlib
import logging
import os
import os.path as osp
from typing import Any

from qprompt.data.preprocessing import Preprocessing
from qprompt.prompt_files import accounting, packing
from qprompt.prompts import Method
from qprompt.training.third_party import ThirdPartyPrompts, modules_in_use

PROMPT_FILE = "prompt.qprompt"
log = logging.getLogger(__name__)


class StoredPrompt(ThirdPartyPrompts):
    """The part of `QuantizedPrompts` that writes the prompt file.

    Attributes:
        prompt_record: what metrics.json says of the stored prompt.
        tested: the accuracy in percent on the test images, by the last evaluation, and their number.
        preprocessing: of test images; None if the transform is not one that a prompt file can describe.
    """

    prompt_record: dict[str, Any] | None = None
    tested: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None
    _finished = False

    def build_data_loader(self):
        super().build_data_loader()
        # Now, since a loader of cached features may replace the one that reads images.
        transform = getattr(getattr(self.test_loader, "dataset", None), "transform", None)
        self.preprocessing = Preprocessing.of_transform(transform)

    def test(self, *args, **options):
        """Evaluate, and remember the accuracy for the prompt file.

        What a third-party trainer tests after training is stored before, since some end the process in the test.
        """
        if self._in_forward and self._finished and not self.run.stored:
            self.write_prompt()
        if self._in_forward:
            self._warn_if_as_initialized()
            self._fit_what_was_written()
        with self._values_in_place() if self._in_forward else contextlib.nullcontext():
            result = super().test(*args, **options)
        split = (args[0] if args else options.get("split")) or self.cfg.TEST.SPLIT
        on_test_images = split != "val" or self.val_loader is None
        if on_test_images and isinstance(result, (int, float)) and 0 <= result <= 100:
            self.tested = {"accuracy": round(float(result), 4), "total": getattr(self.evaluator, "_total", None)}
        return result

    def write_prompt(self):
        """Store the prompt; report its size and its quantization error.

        Our own trainers store it beside the checkpoint; third-party ones outside of the folder of the checkpoints,
        which some of them list.
        """
        file = PROMPT_FILE if self._in_forward else osp.join(self.get_model_names()[0], PROMPT_FILE)
        path = osp.join(self.output_dir, file)
        self._put_back()
        module = modules_in_use(self)[self._source] if self._in_forward else self.prompted
        trained = [name for name, p in self.prompted.named_parameters() if p.requires_grad]
        packing.save(module, path, exact=self._in_forward, also=trained, **self.prompt_metadata())
        record = accounting.summary(module, self.half)
        self.prompt_record = {
            "file": file,
            "file_bytes": os.path.getsize(path),
            "method": self.cfg.TRAINER.QUANT.METHOD,
            "bits": self.cfg.TRAINER.QUANT.BITS,
            **record,
        }
        self.run.stored = self.run.written = True
        snr = "exact" if record["snr_db"] is None else f"{record['snr_db']:.2f} dB SNR, MSE {record['mse']:.3e}"
        log.info(
            f"Prompt saved to {path}: {record['payload_bytes']:,} bytes of payload, "
            f"{record['refits']} re-fits, quantization error {snr}"
        )

    def prompt_metadata(self) -> dict[str, Any]:
        """Return the metadata of the prompt file.

        It is all that `load_classifier` needs besides CLIP. A trainer that knows more (backbone weights, the words
        around the context) returns it from `describe_prompts`.
        """
        describe, method = getattr(super(), "describe_prompts", dict), getattr(self, "method", None)
        cfg = self.cfg
        if self.preprocessing is None and self._finished:
            log.warning("The prompt file does not describe the test transform. Predictions will use CLIP's own.")
        return {
            "method": method.trainer if isinstance(method, Method) else type(self).__name__,
            "backbone": cfg.MODEL.BACKBONE.NAME,
            **describe(),
            "classnames": list(self.dm.dataset.classnames),
            "preprocessing": self.preprocessing and self.preprocessing.to_json(),
            "run": {
                "dataset": cfg.DATASET.NAME,
                "classes": cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"),
                "shots": cfg.DATASET.NUM_SHOTS,
                "seed": cfg.SEED,
            },
            "metrics": self.tested if self._finished else None,
            "checkpoint": self._checkpoint_keys() if self._in_forward else None,
        }
