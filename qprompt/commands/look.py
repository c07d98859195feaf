"""Inspect a run: nearest words of its context, accuracy per class, confusion, most confident errors.

A quantized run is compared with its own latent weights: which classes did quantization help? With --against it
is compared with another run, on the same images.

Examples:
  qprompt look output/base2new/train_base/tiny_world/shots_16/QCoOp/tiny/seed1 --classes new
  qprompt look output/.../QCoOp/tiny/seed1 --against output/.../CoOp/tiny/seed1 --classes new --out look/
"""

import argparse
import io
import logging
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io.logs import show_logs

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt look``."""
    add = parser.add_argument
    add("run", help="output folder of a finished training or evaluation run")
    add("--against", metavar="RUN", help="another run on the same data set, to compare with per class")
    add(
        "--classes",
        choices=("all", "base", "new"),
        default="",
        help="test on these classes (default: those of the run)",
    )
    add("--root", default="", metavar="DATA", help="data root, if it has moved since the run")
    add("--mistakes", type=int, default=20, metavar="N", help="number of most confident errors (default 20)")
    add(
        "--format",
        choices=("text", "markdown", "latex", "csv"),
        default="text",
        help="format of the output (default text)",
    )
    add(
        "--out",
        metavar="FOLDER",
        help="also write to this folder: all formats, one HTML page, confusion matrix, contact sheet",
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables; with --out also write them and the pictures."""
    show_logs("stderr")
    one = _read(args.run)

    from qprompt.report import render
    from qprompt.report.look import classes, mistakes
    from qprompt.report.look.rebuild import predict, rebuild

    trainer = rebuild(one, args.classes, args.root)
    ours = predict(trainer)
    name, other_name, other = one.trainer, "", None
    tables = []
    words, latent = _words_and_latent_predictions(trainer, one)
    tables += words
    if args.against:
        two = _read(args.against)
        other = predict(rebuild(two, args.classes or one.classes, args.root))
        name, other_name = _names(one, two)
        if other.paths != ours.paths:
            raise UserError(
                f"{args.run} and {args.against} were not tested on the same images, so they cannot be compared."
            )
    elif latent is not None:
        other_name, other = "latent weights", latent
    tables.append(classes.class_table(name, ours, other_name, other))
    tables.append(mistakes.mistakes_table(ours, args.mistakes))
    print(render.FORMATS[args.format](tables), end="")
    if args.out:
        _write(Path(args.out), tables, ours, args.mistakes, [one])
    return 0


def _read(folder: str) -> Any:
    from qprompt.report.records import read_runs
    from qprompt.runs.record import METRICS

    path = Path(folder)
    runs, _ = read_runs([path / METRICS if (path / METRICS).is_file() else path])
    if len(runs) > 1:
        raise UserError(f"{folder} contains {len(runs)} runs: type the folder of one of them, e.g. {runs[0].folder}")
    return runs[0]


def _names(one: Any, two: Any) -> tuple[str, str]:
    if one.trainer != two.trainer:
        return one.trainer, two.trainer
    return f"{one.trainer} ({one.folder.name})", f"{two.trainer} ({two.folder.name})"


def _words_and_latent_predictions(trainer: Any, run: Any) -> tuple[list, Any]:
    """The table of words, if a context is learned, and the predictions with the latent weights of a quantized run.

    Afterwards the trainer's model has the latent weights.
    """
    from qprompt.quantization.api import dequantize_, quantized_parameters
    from qprompt.report.look.rebuild import predict
    from qprompt.report.look.words import context_of, known_tokens, words_table

    contexts = {"Nearest words": context_of(trainer)}
    latent = None
    if quantized_parameters(trainer.model):
        contexts = {"Quantized": contexts["Nearest words"]}
        dequantize_(trainer.model, keep="original")
        trainer.set_model_mode("eval")
        latent = predict(trainer)
        contexts = {"Latent weights": context_of(trainer), **contexts}
    learned = {name: context for name, context in contexts.items() if context is not None}
    if not learned:
        return [], latent
    clip_model = getattr(trainer.model, "clip_model", None)
    if clip_model is None:
        from qprompt.backbones import load_clip

        clip_model = load_clip(run.backbone, run.flat_config.get("MODEL.BACKBONE.PATH", ""))
    known = known_tokens(run.backbone, run.flat_config.get("MODEL.BACKBONE.PATH", ""))
    names = [trainer.lab2cname[label] for label in sorted(trainer.lab2cname)]
    return [words_table(learned, clip_model, names, known)], latent


def _write(folder: Path, tables: list, predictions: Any, count: int, runs: list) -> None:
    from qprompt.report.look.classes import confusion_figure
    from qprompt.report.look.mistakes import contact_sheet
    from qprompt.report.output import write_report
    from qprompt.report.plotting import styled

    figures: dict[str, tuple[str, Any]] = {}
    try:
        with styled():
            title = f"{runs[0].trainer} on {runs[0].dataset}"
            figures["confusion"] = (
                "Confusion matrix: numbers of images, each row coloured in percent of its class",
                confusion_figure(predictions, title),
            )
    except UserError as error:
        logger.warning("no confusion matrix: %s", error)
    sheet = contact_sheet(predictions, count)
    if sheet is not None:
        picture = io.BytesIO()
        sheet.save(picture, "PNG")
        figures["mistakes"] = ("The most confident errors with predicted and true class", picture.getvalue())
    write_report(folder, "look", tables, figures, [], runs, [])
