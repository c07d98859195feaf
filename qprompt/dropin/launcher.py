"""``python -m qprompt [--fp32] [--fast] train.py ...``: somebody's Dassl script, unmodified, with quantized trainers.

Inside a CoOp, MaPLe, PromptSRC or KgCoOp checkout, or any other on Dassl: ``--trainer QX`` works for every trainer X
that is registered there, and ``TRAINER.QUANT.*`` are config keys. The script runs as ``__main__`` with its own
arguments and its own modules. See docs/dropin.md.
"""

import contextlib
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qprompt import __version__
from qprompt.dropin import compat
from qprompt.errors import UserError, did_you_mean
from qprompt.io.logs import show_logs

FLAGS = {
    "--fp32": "compute everything in float32, whatever PREC says",
    "--fast": "encode less text where one batch shows that nothing changes",
}


def launch(argv: list[str]) -> int | None:
    """Run ``argv[0]`` as Python would, with ``argv[1:]``. Our own flags may stand anywhere and are taken out."""
    flags = {word for word in argv if word in FLAGS}
    argv = [word for word in argv if word not in FLAGS]
    script = argv[0] if argv else ""
    if script.startswith("-"):
        raise UserError(f"there is no option {script}.{did_you_mean(script, FLAGS)} Options are {', '.join(FLAGS)}.")
    if not os.path.isfile(script):
        beside = [os.path.join(os.path.dirname(script), f.name) for f in Path(script).parent.glob("*.py")]
        hint = did_you_mean(script, beside) or " Go to the checkout that holds it: cd CoOp"
        raise UserError(f"there is no script {script!r} in {os.getcwd()}.{hint}")

    show_logs()
    sys.argv = argv
    sys.path[0] = os.path.dirname(os.path.abspath(script))  # as Python does: the checkout's own `clip` comes first
    notes = _prepare("--fp32" in flags)
    _hook_dassl(argv, "--fast" in flags)
    for note in notes:
        print(note)
    try:
        runpy.run_path(script, run_name="__main__")
    except (RuntimeError, FileNotFoundError) as error:
        advice = None if isinstance(error, UserError) else _advice(error, script)
        if advice is None:
            raise
        traceback.print_exc()
        raise UserError(advice) from None
    return None


def _prepare(fp32: bool) -> list[str]:
    """Make old code run here; what was done, a line each."""
    compat.numpy_aliases()
    compat.pkg_resources_stand_in()
    import torch

    from qprompt.engine import activate

    notes = [f"qprompt {__version__}, torch {torch.__version__}, {activate()}"]
    if not torch.cuda.is_available():
        compat.stay_on_cpu()
        lack = None if fp32 else compat.cpu_lacks_half()
        fp32 = fp32 or lack is not None
        notes.append("no CUDA device: .cuda() stays on the CPU")
        if lack:
            notes.append(f"half precision becomes float32: on the CPU this torch says {lack!r}")
        elif not fp32:
            notes.append("PREC fp16 is many times slower than float32 on a CPU: --fp32 computes in float32 instead")
    if fp32:
        compat.full_precision()
        notes.append("--fp32: everything is computed in float32, whatever PREC says")
    return notes


def _advice(error: Exception, script: str) -> str | None:
    """What to type after an error of the script's that is often a mistake on the command line."""
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return (
            f"{f'{error.filename}: not there' if error.filename else text}. Data sets are looked for below --root; "
            f"--config-file, --dataset-config-file and --model-dir start at {os.getcwd()}."
        )
    if any(f in text for f in ("same dtype", "same type", "scalar type", "not implemented for 'Half'", "unscale FP16")):
        return (
            "this trainer mixes half and full precision. With --fp32 everything is computed in float32: "
            f"python -m qprompt --fp32 {script} ..."
        )
    return None


# --- what scripts find in dassl


def _hook_dassl(argv: list[str], fast: bool) -> None:
    """``TRAINER.QUANT`` in the default config, ``QX`` in the registry, checks before a trainer is built."""
    import dassl.config
    import dassl.engine
    from dassl.config.defaults import _C

    from qprompt.training.defaults import add_quant_cfg

    add_quant_cfg(_C, _requested(argv))  # the default itself: every way to a config leads there
    _name_mistakes()
    if hasattr(dassl.config, "clean_cfg"):  # not in Dassl 0.5
        dassl.config.clean_cfg = _keep_quant(dassl.config.clean_cfg)
    if not hasattr(dassl.engine.TrainerBase, "prograd_backward_and_update"):
        dassl.engine.TrainerBase.prograd_backward_and_update = compat.prograd_step
    registry = dassl.engine.TRAINER_REGISTRY
    offer_quantized(registry)
    dassl.engine.build_trainer = _checked(dassl.engine.build_trainer, registry, fast)


def _requested(argv: list[str]) -> str:
    """The trainer that the arguments ask for, "" if they don't."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word in ("--trainer", "TRAINER.NAME"):
            return following
        if word.startswith("--trainer="):
            return word.partition("=")[2]
    return ""


def offer_quantized(registry: Any) -> None:
    """Have a Dassl registry of trainers give ``QX`` for every X in it; a QX of its own comes first."""
    names, get, built = registry.registered_names, registry.get, {}

    def base(name: str) -> str | None:
        known = names()
        return name[1:] if name.startswith("Q") and name not in known and name[1:] in known else None

    def with_quantized() -> list[str]:
        known = names()
        return [*known, *(f"Q{name}" for name in known if base(f"Q{name}"))]

    def get_or_build(name: str) -> Any:
        if base(name) is None:
            return get(name)
        if name not in built:
            built[name] = quantized_class(get(base(name)))
        return built[name]

    registry.registered_names, registry.get = with_quantized, get_or_build


def quantized_class(trainer: type) -> type:
    """``QX`` from the trainer class X. What X reads of the config is what it read before: TRAINER.NAME is X there."""
    from qprompt.training.quantized import QuantizedPrompts

    name = f"Q{trainer.__name__}"
    if not (isinstance(trainer, type) and hasattr(trainer, "build_model") and hasattr(trainer, "forward_backward")):
        raise UserError(f"{trainer.__name__} is not a Dassl trainer with build_model and forward_backward: no {name}.")

    def __init__(self, cfg):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.TRAINER.NAME = trainer.__name__  # people dispatch on it, e.g. cfg.TRAINER[cfg.TRAINER.NAME.upper()]
        cfg.freeze()
        super(made, self).__init__(cfg)  # type: ignore[arg-type]

    members = {"__init__": __init__, "__module__": trainer.__module__, "__doc__": f"{trainer.__name__}, quantized."}
    made: type = type(name, (QuantizedPrompts, trainer), members)
    return made


def _checked(build: Callable[[Any], Any], registry: Any, fast: bool = False) -> Callable[[Any], Any]:
    def build_trainer(cfg: Any) -> Any:
        name, known = cfg.TRAINER.NAME, registry.registered_names()
        if name not in known:
            got = f"no trainer {name!r} is registered here.{did_you_mean(name, known)}" if name else "name a trainer."
            raise UserError(f"{got} --trainer takes: {', '.join(known)}")
        if not cfg.USE_CUDA:
            compat.stay_on_cpu()
        trainer = build(cfg)
        if fast:
            from qprompt.dropin.fast_text import speed_up

            print(speed_up(trainer))
        return trainer

    return build_trainer


def _keep_quant(clean: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    def clean_cfg(cfg: Any, trainer: str) -> None:
        quant = cfg.TRAINER.QUANT
        clean(cfg, trainer[1:] if trainer.startswith("Q") and trainer[1:].upper() in cfg.TRAINER else trainer)
        cfg.TRAINER.QUANT = quant

    return clean_cfg


def _name_mistakes() -> None:
    """Merge ``TRAINER.QUANT.*`` with our own checks (did you mean, 1 for 1.0). yacs merges all else as ever, but that
    a key which is not there is named in one line."""
    from yacs.config import CfgNode

    from qprompt.runs.config import set_key

    prefix = "TRAINER.QUANT."
    merge_list, merge_node = CfgNode.merge_from_list, CfgNode.merge_from_other_cfg

    def has_quant(cfg: Any) -> bool:
        return "QUANT" in cfg.get("TRAINER", {})

    def merge_from_list(self: Any, options: list[Any]) -> None:
        rest = []
        for key, value in zip(options[::2], options[1::2]):  # noqa: B905 (an odd number is for yacs to refuse)
            if key.startswith(prefix) and has_quant(self):
                set_key(self, key, self._decode_cfg_value(value), "the command line")
            else:
                rest += [key, value]
        with _unknown_key_named(self, "the command line"):
            merge_list(self, rest + list(options[len(options) // 2 * 2 :]))

    def merge_from_other_cfg(self: Any, other: Any) -> None:
        if has_quant(self) and has_quant(other):
            other = other.clone()
            for key, value in other.TRAINER.pop("QUANT").items():
                set_key(self, prefix + key, value, "the config file")
        with _unknown_key_named(self, "the config file"):
            merge_node(self, other)

    CfgNode.merge_from_list, CfgNode.merge_from_other_cfg = merge_from_list, merge_from_other_cfg


@contextlib.contextmanager
def _unknown_key_named(cfg: Any, where: str) -> Iterator[None]:
    from qprompt.runs.config import keys

    try:
        yield
    except (AssertionError, KeyError) as error:  # the one from a list of options, the other from a file
        unknown = re.fullmatch(r"Non-existent (?:config )?key: (.+)", str(error.args[0]) if error.args else "")
        if unknown is None:
            raise
        raise UserError(f"{where}: no config key {unknown[1]}.{did_you_mean(unknown[1], keys(cfg))}") from None
