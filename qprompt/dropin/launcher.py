"""``python -m qprompt [--fp32] [--fast] train.py ...``: run an unmodified Dassl script with quantized trainers.

In a checkout of CoOp, MaPLe, PromptSRC, KgCoOp or of another project on Dassl, ``--trainer QX`` works for every
registered trainer X, and ``TRAINER.QUANT.*`` are config keys. The script runs as ``__main__`` with its own arguments
and modules. See docs/dropin.md.
"""

import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qprompt import __version__
from qprompt.dropin import compat, config_keys, ending
from qprompt.dropin.registry import offer_quantized
from qprompt.errors import UserError, did_you_mean
from qprompt.io.logs import show_logs

FLAGS = {
    "--fp32": "compute everything in float32, whatever PREC says",
    "--fast": "skip needless text encoding, if logits and gradients of one batch stay the same",
}


def launch(argv: list[str]) -> int | None:
    """Run a script as Python would.

    Args:
        argv: the script and its arguments. The launcher's own `FLAGS` may stand anywhere; the script does not see them.

    Raises:
        UserError: there is no such option or script, or it failed in a way that often is a mistake on the command line.
    """
    flags = {word for word in argv if word in FLAGS}
    argv = [word for word in argv if word not in FLAGS]
    script = argv[0] if argv else ""
    if script.startswith("-"):
        raise UserError(f"there is no option {script}.{did_you_mean(script, FLAGS)} Options are {', '.join(FLAGS)}.")
    if not os.path.isfile(script):
        others = [os.path.join(os.path.dirname(script), f.name) for f in Path(script).parent.glob("*.py")]
        hint = did_you_mean(script, others) or " Run this in the checkout that contains it: cd CoOp"
        raise UserError(f"there is no script {script!r} in {os.getcwd()}.{hint}")

    show_logs()
    sys.argv = argv
    sys.path[0] = os.path.dirname(os.path.abspath(script))  # as Python does: the checkout's own `clip` comes first
    notes = _prepare_process("--fp32" in flags)
    _extend_dassl(argv, "--fast" in flags)
    for note in notes:
        print(note)
    ending.report_before_exit()
    try:
        runpy.run_path(script, run_name="__main__")
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if (ours := ending.swallowed()) is not None:  # the script made another exception of it
            raise ours from None
        advice = _advice(error, script) if isinstance(error, (RuntimeError, FileNotFoundError)) else None
        if advice is None:
            raise
        traceback.print_exc()
        raise UserError(advice) from None
    finally:
        for line in ending.missing_prompts():
            print(f"qprompt: {line}", file=sys.stderr)
    if (ours := ending.swallowed()) is not None:  # the script caught it and went on
        raise ours
    return None


def _prepare_process(fp32: bool) -> list[str]:
    """Make old code run in this process; return one line for each change worth knowing."""
    compat.add_numpy_aliases()
    compat.add_pkg_resources()
    import torch

    from qprompt.engine import activate

    notes = [f"qprompt {__version__}, torch {torch.__version__}, {activate()}"]
    if not torch.cuda.is_available():
        compat.stay_on_cpu()
        error = None if fp32 else compat.half_error_on_cpu()
        fp32 = fp32 or error is not None
        notes.append("no CUDA device: .cuda() stays on the CPU")
        if error:
            notes.append(f"this torch cannot train in half precision on the CPU ({error}): float32 is used instead")
        elif not fp32:
            notes.append("PREC fp16 is many times slower than float32 on a CPU: --fp32 computes in float32 instead")
    if fp32:
        compat.use_full_precision()
        notes.append("--fp32: everything is computed in float32, whatever PREC says")
    return notes


def _advice(error: Exception, script: str) -> str | None:
    """Return what to type after an error of the script that often is a mistake on the command line."""
    text = str(error)
    if isinstance(error, FileNotFoundError):
        problem = f"{error.filename} does not exist" if error.filename else text
        return (
            f"{problem}. Data sets are searched below --root; --config-file, --dataset-config-file and --model-dir are "
            f"relative to {os.getcwd()}."
        )
    if any(f in text for f in ("same dtype", "same type", "scalar type", "not implemented for 'Half'", "unscale FP16")):
        return (
            "this trainer mixes half and full precision. With --fp32 everything is computed in float32: "
            f"python -m qprompt --fp32 {script} ..."
        )
    return None


# --- what scripts import from dassl


def _extend_dassl(argv: list[str], fast: bool) -> None:
    """Add ``TRAINER.QUANT`` to the default config, ``QX`` to the registry, and checks before a trainer is built."""
    import dassl.config
    import dassl.engine
    from dassl.config.defaults import _C

    from qprompt.training.defaults import add_quant_cfg

    # In the default itself, from which scripts derive their config in different ways.
    add_quant_cfg(_C, _requested_trainer(argv))
    config_keys.check_merges()
    if hasattr(dassl.config, "clean_cfg"):  # not in Dassl 0.5
        dassl.config.clean_cfg = config_keys.keeping_quant(dassl.config.clean_cfg)
    if not hasattr(dassl.engine.TrainerBase, "prograd_backward_and_update"):
        dassl.engine.TrainerBase.prograd_backward_and_update = compat.prograd_step  # type: ignore[attr-defined]  # new
    registry = dassl.engine.TRAINER_REGISTRY
    offer_quantized(registry)
    dassl.engine.build_trainer = _with_checks(dassl.engine.build_trainer, registry, fast)


def _requested_trainer(argv: list[str]) -> str:
    """Return the trainer that the arguments name, or ""."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word in ("--trainer", "TRAINER.NAME"):
            return following
        if word.startswith("--trainer="):
            return word.partition("=")[2]
    return ""


def _with_checks(build: Callable[[Any], Any], registry: Any, fast: bool = False) -> Callable[[Any], Any]:
    """Wrap `build_trainer`: check the trainer's name, respect USE_CUDA, apply --fast."""

    @ending.remembered
    def build_trainer(cfg: Any) -> Any:
        name, known = cfg.TRAINER.NAME, registry.registered_names()
        if name not in known:
            given = (
                f"no trainer {name!r} is registered here.{did_you_mean(name, known)}" if name else "no trainer given."
            )
            raise UserError(f"{given} --trainer expects one of: {', '.join(known)}")
        if not cfg.USE_CUDA:
            compat.stay_on_cpu()
        trainer = build(cfg)
        if fast:
            from qprompt.dropin.fast_text import speed_up

            print(speed_up(trainer))
        return trainer

    return build_trainer
