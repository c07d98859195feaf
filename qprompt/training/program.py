"""What train.py does: build the trainer, train or evaluate, and write metrics.json."""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from qprompt.errors import AlreadyFinished, UserError
from qprompt.io.device_errors import device_errors_named
from qprompt.io.files import check_current_folder, disk_errors_named
from qprompt.io.logs import accept_any_name, discard_output, show_logs
from qprompt.runs.project import find_project
from qprompt.training.arguments import parse_args
from qprompt.training.early_checks import check_arguments

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, project: Path | None = None) -> int:
    """Run ``train.py argv...``; return the exit code (2 for a mistake of the user, 130 if interrupted)."""
    accept_any_name()
    args = parse_args(argv)
    show_logs()
    try:
        if args.help_config is not None:
            print_config_help(args)
        else:
            check_current_folder()
            execute(args, project or find_project())
    except UserError as error:
        if args.skip_finished and isinstance(error, AlreadyFinished):
            print(f"Skipped: {args.output_dir or 'output'} holds this run, finished.")
            return 0
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: interrupted. The same command resumes the run at its last checkpoint.", file=sys.stderr)
        return 130
    return 0


def print_config_help(args: argparse.Namespace) -> None:
    """Print what config keys expect. UserError for an unknown one."""
    from qprompt.engine import activate

    activate()
    from qprompt.training.config_keys import describe
    from qprompt.training.defaults import default_cfg

    try:
        print(describe(default_cfg(args.trainer), args.help_config), flush=True)
    except BrokenPipeError:  # as with | head
        discard_output()


def execute(
    args: argparse.Namespace, project: Path, quiet: bool = False, watch: Callable[[Any], None] | None = None
) -> Path | None:
    """Run what the arguments of ``train.py`` ask for.

    Args:
        args: the arguments.
        project: the folder with trainers/ and datasets/.
        quiet: write the output to log.txt only.
        watch: is called with the trainer before it trains or evaluates.

    Returns:
        The path of metrics.json; None with ``--no-train``.

    Raises:
        UserError: a mistake of the user, before any long work.
    """
    check_arguments(args, project)  # imports no torch

    from qprompt.engine import activate

    engine = activate()
    import torch

    from qprompt.runs.folder import claim
    from qprompt.runs.identity import RunSettings
    from qprompt.training.arithmetic import arithmetic
    from qprompt.training.project import register_project
    from qprompt.training.settings import check, setup_cfg
    from qprompt.training.text_memory import less_memory

    register_project(project)
    show_logs()  # again, since Dassl may have turned off the log when it was imported
    cfg, defaults = setup_cfg(args)
    check(args, cfg)
    cfg.freeze()
    if args.model_dir and (args.load_epoch == "last" or (args.load_epoch is None and not _has_best(args.model_dir))):
        args.load_epoch = last_epoch(args.model_dir)
    mode = "eval" if args.eval_only else "train"
    settings = RunSettings.of(cfg, defaults, mode, args.model_dir, args.load_epoch)
    with (
        torch.inference_mode(False),  # also where the caller computes without gradients
        torch.enable_grad(),
        disk_errors_named(),
        device_errors_named(partial(less_memory, cfg, not args.eval_only), _fp32(cfg.TRAINER.NAME)),
        claim(cfg.OUTPUT_DIR, settings),
        logging_to(cfg.OUTPUT_DIR, quiet),
        arithmetic(cfg),
    ):
        return _run(args, cfg, defaults, f"{engine}\ntrainers and data sets: {project}", str(engine), watch)


def _fp32(trainer: str) -> str:
    """Return what to type for that precision; "" if the trainer has no other."""
    from dassl.engine import TRAINER_REGISTRY

    known = trainer in TRAINER_REGISTRY.registered_names()
    method = getattr(TRAINER_REGISTRY.get(trainer), "method", None) if known else None
    return f"type TRAINER.{method.node}.PREC fp32" if method is not None else ""


def _run(
    args: argparse.Namespace,
    cfg: CfgNode,
    defaults: CfgNode,
    heading: str,
    engine: str,
    watch: Callable[[Any], None] | None,
) -> Path | None:
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    from qprompt.runs.finish import Evaluations, finish
    from qprompt.training.arithmetic import in_effect
    from qprompt.training.project import learns
    from qprompt.training.trackers import tracked

    started = time.monotonic()
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    _print_run(args, cfg, heading)
    trainer = build_trainer(cfg)
    evaluations = Evaluations(trainer)
    if watch is not None:
        watch(trainer)
    evaluates = args.eval_only or not learns(cfg.TRAINER.NAME)
    if args.no_train and not evaluates:
        return None
    with tracked(args.log_to, trainer, evaluations):
        if evaluates:
            mode, more = "eval", evaluate(trainer, evaluations, args)
        else:
            trainer.train()
            mode, more = "train", {"prompt": getattr(trainer, "prompt_record", None) or _fp16_prompt(trainer)}
    if getattr(getattr(trainer, "guard", None), "skipped", 0):
        more["skipped_steps"] = trainer.guard.skipped
    if computed := getattr(trainer, "computed", None):
        more["computed"] = {**computed, **in_effect()}
    if deviations := getattr(trainer, "deviations", None):
        more["deviations"] = [*more.get("deviations", []), *deviations]
    path = finish(cfg.OUTPUT_DIR, trainer, mode, evaluations.last, started, engine, defaults=defaults, **more)
    print(f"Wrote {path}")
    return path


def _print_run(args: argparse.Namespace, cfg: CfgNode, heading: str) -> None:
    from dassl.utils import collect_env_info

    print(heading)
    print("***************\n** Arguments **\n***************")
    for key, value in sorted(vars(args).items()):
        print(f"{key}: {value}")
    print(f"************\n** Config **\n************\n{cfg}")
    print(f"Collecting env info ...\n** System info **\n{collect_env_info()}\n")


def checkpoint_epochs(model_dir: str) -> list[int]:
    """Return the epochs of all checkpoints of a training run, in order."""
    found = {int(p.name.rpartition("-")[2]) for p in Path(model_dir).glob("*/model.pth.tar-*[0-9]")}
    if not found:
        raise UserError(f"{model_dir} holds no checkpoint (no */model.pth.tar-N in it).")
    return sorted(found)


def last_epoch(model_dir: str) -> int:
    """Return the epoch of the last checkpoint of a training run, which must be finished (upstream's do not say)."""
    from qprompt.runs.folder import is_unfinished

    if is_unfinished(Path(model_dir)):
        raise UserError(f"the training run in {model_dir} is not finished: start it again, it resumes.")
    return checkpoint_epochs(model_dir)[-1]


def _has_best(model_dir: str) -> bool:
    return any(Path(model_dir).glob("*/model-best.pth.tar"))


def evaluate(trainer: Any, evaluations: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Test once, or once per checkpoint. Return what metrics.json records besides the results."""
    if not args.model_dir:
        trainer.test()
        return {}
    from qprompt.training.leaks import leaks_of_training

    record = {"model_dir": args.model_dir, "load_epoch": args.load_epoch}
    if found := leaks_of_training(trainer.cfg, args.model_dir):
        record["deviations"] = found
        for leak in found:
            log.warning("%s", leak[0].upper() + leak[1:])
    if args.load_epoch != "all":
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
        return record
    curve = []
    for epoch in checkpoint_epochs(args.model_dir):
        trainer.load_model(args.model_dir, epoch=epoch)
        trainer.test()
        curve.append({"epoch": epoch, **evaluations.last})
    return {**record, "curve": curve}


def _fp16_prompt(trainer: Any) -> dict[str, Any]:
    """Return the stored size of a prompt that is not quantized: two bytes per learned number."""
    learned = [p for model in trainer._models.values() for p in model.parameters() if p.requires_grad]
    return {"payload_bytes": 2 * sum(p.numel() for p in learned), "bits": 16}


@contextlib.contextmanager
def logging_to(output_dir: str, quiet: bool = False) -> Iterator[None]:
    """Replace sys.stdout by Dassl's logger; restore it and close the log file afterwards.

    Args:
        output_dir: of the log file.
        quiet: write to the log file only, standard error too.
    """
    from dassl.utils import setup_logger

    console, errors = sys.stdout, sys.stderr
    with contextlib.ExitStack() as closed:
        if quiet:
            sys.stdout = closed.enter_context(open(os.devnull, "w", encoding="utf-8", errors="ignore"))
        setup_logger(output_dir)
        logger: Any = sys.stdout
        logger.file.reconfigure(errors="backslashreplace")  # names of files may be no text
        if quiet:
            sys.stderr = logger
        try:
            yield
        finally:
            sys.stdout, sys.stderr = console, errors
            logger.file.close()  # not logger.close(): that of the real Dassl closes the console too,
            logger.console = logger.file  # which it would also do once it is collected
