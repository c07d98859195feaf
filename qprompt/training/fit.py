"""`fit`: from pictures to a classifier in one call."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io.files import write_json
from qprompt.io.logs import logs_shown
from qprompt.io.random_state import RandomState
from qprompt.prompt_files.classifier import Classifier, load_classifier
from qprompt.training.picture_run import PictureRun, train_on_pictures


def fit(
    pictures: str | os.PathLike[str] | Mapping[str, Iterable[str | os.PathLike[str]]] | Iterable[tuple[Any, str]],
    trainer: str = "QCoOp",
    *,
    backbone: str = "ViT-B/16",
    backbone_path: str | os.PathLike[str] = "",
    shots: int = 16,
    seed: int = 1,
    out: str | os.PathLike[str] = "",
    root: str | os.PathLike[str] = "",
    augment: bool = True,
    device: str = "",
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Classifier:
    """Train a prompt on pictures; return a classifier with it.

    The settings are the published ones of the method, as in `qprompt train`, which does the same. Global random states
    are left as they were.

    Args:
        pictures: a folder with one folder per class; a list of pictures (.csv, .tsv, .json, .jsonl); the name of a data
            set; a mapping from class to paths; or pairs of path and class. If no test pictures are given, a part of
            the pictures of each class is kept for testing.
        trainer: one that quantizes: QCoOp, QMaPLe, QCoCoOp, ...
        backbone: "tiny", or a name of OpenAI's or open_clip's.
        backbone_path: a file with weights to use instead of the named ones.
        shots: training pictures per class; 0 takes all.
        seed: of the draw of the pictures and of the training.
        out: folder for the log, the checkpoints and the prompt file. If it holds this run, unfinished, the run is
            resumed; finished, its result is returned. By default a temporary folder, which is deleted.
        root: data root of a named data set, or of relative paths.
        augment: crop and flip the training pictures at random, as published. Without it training is much faster, since
            image features are computed once.
        device: "cuda", "cpu", or "" for a GPU if there is one.
        settings: further config keys, e.g. {"OPTIM.MAX_EPOCH": 50}.
        progress: show progress on standard error.

    Raises:
        UserError: a mistake in the arguments, or pictures that cannot be read, before any long work.
    """
    if not trainer.startswith("Q"):
        raise UserError(
            f"trainer {trainer!r} stores no prompt file, expected a quantized one, such as 'QCoOp'. For half "
            "precision type trainer='QCoOp', settings={'TRAINER.QUANT.BITS': 16}."
        )
    with tempfile.TemporaryDirectory() as scratch:
        given = pictures
        if not isinstance(given, (str, os.PathLike)):
            given, root = _listed(given, Path(out or scratch), root), root or os.sep
        run = PictureRun(
            pictures=os.fspath(given),
            trainer=trainer,
            backbone=backbone,
            backbone_path=os.fspath(backbone_path),
            shots=shots,
            seed=seed,
            out=os.fspath(out) or str(Path(scratch, "run")),
            root=os.fspath(root),
            augment=augment,
            device=device,
            settings=[str(word) for pair in (settings or {}).items() for word in pair],
        )
        state = RandomState.current()
        try:
            with logs_shown("stderr"):
                result = train_on_pictures(run, sys.stderr if progress else None)
            path = result.folder / result.metrics.prompt["file"]
            classifier = load_classifier(path, backbone_path=run.backbone_path)
        finally:
            state.restore()
    return classifier.to(device) if device else classifier


def _listed(pictures: Any, folder: Path, root: str | os.PathLike[str]) -> str:
    """Write a list of the pictures; return its path."""
    pairs = (
        [(path, name) for name, paths in pictures.items() for path in paths]
        if isinstance(pictures, Mapping)
        else list(pictures)
    )
    rows = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], (str, os.PathLike)):
            raise UserError(
                f"{pair!r} is not a pair of path and class: expected a folder, a list of pictures, "
                "a mapping from class to paths, or pairs (path, class)."
            )
        path = os.fspath(pair[0])
        rows.append({"path": path if root else os.path.abspath(path), "classname": str(pair[1])})
    if not rows:
        raise UserError("there are no pictures: expected at least two classes of them.")
    # The name says what is in it: a run in a folder is resumed only with the same pictures.
    name = hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"pictures-{name}.json", rows)
    return str(folder / f"pictures-{name}.json")
