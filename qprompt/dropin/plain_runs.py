"""A script that reads X for QX and makes X in its own way would train in full precision: refused at its first step."""

import sys
from typing import Any

from qprompt.dropin import ending
from qprompt.errors import UserError

made: set[str] = set()  # the quantized trainers of which an object was made, or is being made


def refuse_plain_training(wanted: str) -> None:
    """Make the first step of any optimizer an error, if no `wanted` has been made by then (PyTorch 2).

    Args:
        wanted: QX, where the script reads X; "" where it reads the name that was typed.
    """
    from torch.optim import optimizer

    register = getattr(optimizer, "register_optimizer_step_pre_hook", None)
    if register is None or not wanted:
        return

    @ending.remembered
    def check(*_: Any) -> None:
        require(wanted)
        handle.remove()

    handle = register(check)


def require(wanted: str) -> None:
    """Raise UserError if no `wanted` was made; see `refuse_plain_training`."""
    if not wanted or wanted in made:
        return
    engines = [name for name in sys.modules if name.endswith(".engine") and not name.startswith(("dassl.", "qprompt."))]
    own = [name.partition(".")[0] for name in engines if hasattr(sys.modules[name], "TRAINER_REGISTRY")]
    renamed = f" It imports {own[0]}, which is not dassl: write dassl there." if own else ""
    raise UserError(
        f"the script did not make {wanted}, but {wanted[1:]}, which is not quantized. Its trainer has to come from "
        f"dassl.engine: build_trainer(cfg), or TRAINER_REGISTRY.get(cfg.TRAINER.NAME).{renamed}"
    )
