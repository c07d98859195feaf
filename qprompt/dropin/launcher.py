"""``python -m qprompt [--fp32] [--fast] train.py ...``: run an unmodified Dassl script with quantized trainers.

In a checkout of CoOp, MaPLe, PromptSRC, KgCoOp or of another project on Dassl, ``--trainer QX`` works for every
registered trainer X, and ``TRAINER.QUANT.*`` are config keys. The script runs as ``__main__`` with its own arguments
and modules. See docs/dropin.md.
"""

import functools
import os
import runpy
import sys
import traceback
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qprompt import __version__, engine
from qprompt.dropin import compat, config_keys, ending, local_clip, names, plain_runs, second_derivatives
from qprompt.dropin.own_dassl import use_own_dassl
from qprompt.dropin.registry import offer_quantized
from qprompt.errors import UserError, did_you_mean
from qprompt.io.device_errors import one_line
from qprompt.io.logs import accept_any_name, show_logs

FLAGS = {
    "--fp32": "compute everything in float32, whatever PREC says",
    "--fast": "skip needless text encoding, if logits and gradients of one batch stay the same",
    "--math-attention": "compute attention by operations that can be differentiated twice",
    "--clip": "read CLIP's weights from a file: --clip FILE",
}


def launch(argv: list[str]) -> int | None:
    """Run a script as Python would.

    Args:
        argv: the script and its arguments. The launcher's own `FLAGS` may stand anywhere; the script does not see them.

    Raises:
        UserError: there is no such option or script, or it failed in a way that often is a mistake on the command line.
    """
    argv, clip = _take_clip(argv)
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
    accept_any_name()
    folder = os.path.dirname(os.path.abspath(script))
    bits_of = names.requested_trainer(argv)
    argv, wanted, renamed = names.as_plain(argv, folder)
    sys.argv = argv
    sys.path[0] = folder  # as Python does: the checkout's own `clip` comes first
    _hide_own_project(folder)
    near = engine.own_dassl(folder)
    if near is not None and os.environ.get(engine.VARIABLE) == "dassl":
        sys.path.insert(1, str(near))
    notes = _prepare_process("--fp32" in flags) + renamed
    own = use_own_dassl(folder)
    notes += [str(own)] if own and str(own) else []
    if "--math-attention" in flags:
        second_derivatives.use_math_attention()
    if bits_of:
        from qprompt.training.saved_values import watch_saving

        watch_saving()
    _extend_dassl(bits_of, Requests(wanted, clip, "--fast" in flags))
    for note in notes:
        print(note)
    plain_runs.refuse_plain_training(wanted)
    try:
        with ending.reported_before_exit(functools.partial(plain_runs.require, wanted)):
            runpy.run_path(script, run_name="__main__")
    except UserError as error:
        advice = _advice(error.__cause__, script) if isinstance(error.__cause__, RuntimeError) else None
        if advice is None:
            raise
        raise UserError(f"{error}: {advice}") from None
    except (Exception, SystemExit) as error:
        if (ours := ending.swallowed()) is not None:  # the script made another exception of it
            raise ours from None
        known = isinstance(error, (RuntimeError, FileNotFoundError, urllib.error.URLError))
        advice = _advice(error, script) if known else None
        if advice is None:
            if own is not None and own.may_explain(error):
                traceback.print_exc()
                print(f"qprompt: this may be why: {own}", file=sys.stderr)
                return 1
            raise
        if not isinstance(error, urllib.error.URLError):  # the line says it all
            traceback.print_exc()
        raise UserError(advice) from None
    finally:
        ending.flush()  # what is said at the end is the last line of the output
        for line in ending.missing_prompts():
            print(f"qprompt: {line}", file=sys.stderr)
    if (ours := ending.swallowed()) is not None:  # the script caught it and went on
        raise ours
    plain_runs.require(wanted)
    return None


def _hide_own_project(folder: str) -> None:
    """Take a clone of this project off the path: its `trainers` would come before a checkout's without __init__.py."""
    own = str(Path(__file__).resolve().parent.parent.parent)
    if os.path.isfile(os.path.join(own, "trainers", "__init__.py")) and os.path.realpath(folder) != own:
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != own]


@dataclass(frozen=True)
class Requests:
    """What the launcher was asked for.

    Attributes:
        trainer: QX, where the script reads X; "" where it reads the name that was typed.
        clip: file with CLIP's weights, or "".
        fast: whether --fast was given.
    """

    trainer: str = ""
    clip: str = ""
    fast: bool = False


def _take_clip(argv: list[str]) -> tuple[list[str], str]:
    """Return the arguments without ``--clip FILE``, and FILE or ""."""
    words, file = [], ""
    given = iter(argv)
    for word in given:
        if word == "--clip" or word.startswith("--clip="):
            file = word.partition("=")[2] if "=" in word else next(given, "")
            if not file or file.startswith("--") or file.endswith(".py"):
                raise UserError(f"--clip expects a file with CLIP's weights, got {file or 'nothing'}.")
        else:
            words.append(word)
    return words, file


def _prepare_process(fp32: bool) -> list[str]:
    """Make old code run in this process; return one line for each change worth knowing."""
    compat.add_numpy_aliases()
    compat.add_pkg_resources()
    import torch

    notes = [f"qprompt {__version__}, torch {torch.__version__}, {engine.activate()}"]
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


_LESS_MEMORY = "type a smaller DATALOADER.TRAIN_X.BATCH_SIZE or DATALOADER.TEST.BATCH_SIZE, or try --fast"


def _advice(error: BaseException, script: str) -> str | None:
    """Return what to type after an error of the script that often is a mistake on the command line."""
    text = str(error)
    if isinstance(error, urllib.error.URLError):
        return (
            f"a download failed ({error.reason}). If it was CLIP, name a file with its weights: "
            f"python -m qprompt --clip FILE {script} ..."
        )
    if "derivative for aten::_scaled_dot_product" in text:
        return f"this trainer differentiates attention twice: python -m qprompt --math-attention {script} ..."
    if isinstance(error, FileNotFoundError):
        problem = f"{error.filename} does not exist" if error.filename else text
        return (
            f"{problem}. Data sets are searched below --root; --config-file, --dataset-config-file and --model-dir are "
            f"relative to {os.getcwd()}."
        )
    if line := one_line(text, lambda: _LESS_MEMORY):
        return line
    if any(f in text for f in ("same dtype", "same type", "scalar type", "not implemented for 'Half'", "unscale FP16")):
        return (
            "this trainer mixes half and full precision. With --fp32 everything is computed in float32: "
            f"python -m qprompt --fp32 {script} ..."
        )
    return None


# --- what scripts import from dassl


def _extend_dassl(bits_of: str, requests: Requests) -> None:
    """Add ``TRAINER.QUANT`` to the default config, ``QX`` to the registry, and checks before a trainer is built."""
    import dassl.config
    import dassl.engine
    from dassl.config.defaults import _C

    from qprompt.training.defaults import add_quant_cfg

    # In the default itself, from which scripts derive their config in different ways.
    add_quant_cfg(_C, bits_of)
    if "PATH" not in _C.MODEL.BACKBONE:
        _C.MODEL.BACKBONE.PATH = ""
    config_keys.check_merges()
    if hasattr(dassl.config, "clean_cfg"):  # not in Dassl 0.5
        dassl.config.clean_cfg = config_keys.keeping_quant(dassl.config.clean_cfg)
    if not hasattr(dassl.engine.TrainerBase, "prograd_backward_and_update"):
        dassl.engine.TrainerBase.prograd_backward_and_update = compat.prograd_step  # type: ignore[attr-defined]  # new
    registry = dassl.engine.TRAINER_REGISTRY
    offer_quantized(registry)
    dassl.engine.build_trainer = _with_checks(dassl.engine.build_trainer, registry, requests)


def _with_checks(build: Callable[[Any], Any], registry: Any, requests: Requests = Requests()) -> Callable[[Any], Any]:  # noqa: B008
    """Wrap `build_trainer`: check the trainer's name, respect USE_CUDA, give it a local CLIP, apply --fast."""

    @ending.remembered
    def build_trainer(cfg: Any, *args: Any, **options: Any) -> Any:
        if args or options:  # a fork's own: one trainer inside another
            return build(cfg, *args, **options)
        name, known = cfg.TRAINER.NAME, registry.registered_names()
        if requests.trainer and name == requests.trainer[1:]:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.TRAINER.NAME = name = requests.trainer
            cfg.freeze()
        if name not in known:
            given = (
                f"no trainer {name!r} is registered here.{did_you_mean(name, known)}" if name else "no trainer given."
            )
            raise UserError(f"{given} --trainer expects one of: {', '.join(known)}")
        if not cfg.USE_CUDA:
            compat.stay_on_cpu()
        clip = requests.clip or cfg.MODEL.BACKBONE.get("PATH", "")
        if clip:
            print(local_clip.use_local_clip(clip))
        if second_derivatives.differentiates_twice(registry.get(name)):
            print("this trainer differentiates twice: attention is computed by operations that allow it")
            second_derivatives.use_math_attention()
        trainer = build(cfg)
        if requests.fast:
            from qprompt.dropin.fast_text import speed_up

            print(speed_up(trainer))
        return trainer

    return build_trainer
