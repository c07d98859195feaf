"""A training run on somebody's pictures: the arguments of train.py for it, the run, and zero-shot CLIP beside it."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from qprompt.data.spelling import readable
from qprompt.errors import AlreadyFinished, UserError, did_you_mean
from qprompt.runs import config
from qprompt.runs.metrics import Metrics, read_metrics
from qprompt.runs.project import find_file, find_project, trainer_names
from qprompt.runs.protocol import published_config
from qprompt.runs.record import METRICS
from qprompt.training.arguments import parse_args
from qprompt.training.early_checks import BACKBONES, check_installed, check_name
from qprompt.training.program import execute
from qprompt.training.run_progress import RunProgress

LISTS = (".csv", ".tsv", ".json", ".jsonl")
ZERO_SHOT, _BASELINE = "ZeroshotCLIP", "zero_shot"


@dataclass(frozen=True)
class PictureRun:
    """What to train, on what.

    Attributes:
        pictures: a folder with one folder per class, a list of pictures (.csv, .tsv, .json, .jsonl), or the name of a
            data set in configs/datasets/.
        trainer: a trainer that learns: QCoOp, QMaPLe, CoOp, ...
        backbone: "tiny", or a name of OpenAI's or open_clip's.
        backbone_path: a file with weights to use instead of the named ones.
        shots: training pictures per class; 0 takes all.
        seed: of the draw of the pictures and of the training.
        out: the output folder.
        root: of a named data set, or of the paths in a list (default: the folder of the list).
        augment: crop and flip the training pictures at random, as published. Without it, the features of the frozen
            image branch are computed once, which is much faster.
        device: "cuda", "cpu", or "" for a GPU if there is one.
        deterministic: compute with kernels that repeat their bits on a GPU.
        settings: further ``KEY VALUE KEY VALUE ...``, which win.
    """

    pictures: str
    trainer: str = "QCoOp"
    backbone: str = "ViT-B/16"
    backbone_path: str = ""
    shots: int = 16
    seed: int = 1
    out: str = ""
    root: str = ""
    augment: bool = True
    device: str = ""
    deterministic: bool = False
    settings: Sequence[str] = field(default_factory=tuple)

    @property
    def name(self) -> str:
        """The name of the folder, list or data set, as text."""
        path = Path(self.pictures).expanduser().absolute()
        return readable(path.name if path.is_dir() else path.stem) or "pictures"

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.out or Path("output") / self.name / self.trainer).expanduser()

    def check(self) -> None:
        """Refuse what cannot run. PyTorch is not imported."""
        project = find_project()
        check_installed(project)
        config.check_pairs(self.settings)
        check_name(self.trainer, trainer_names(project), "trainer", "--trainer")
        if self.backbone_path and not Path(self.backbone_path).expanduser().exists():
            raise UserError(
                f"no file {self.backbone_path!r}: --backbone-path expects CLIP weights: a file, or a folder of them."
            )
        if not self.backbone_path and ":" not in self.backbone and self.backbone not in BACKBONES:
            close = did_you_mean(self.backbone, BACKBONES)
            raise UserError(f"no backbone {self.backbone!r}.{close} There are: {', '.join(BACKBONES)}.")
        if self.shots < 0:
            raise UserError(f"--shots is {self.shots}, expected a number of pictures per class, or 0 for all.")
        if self.device not in ("", "cpu", "cuda"):
            raise UserError(
                f"--device is {self.device!r}, expected cpu or cuda (mps and xpu are not supported; "
                "CUDA_VISIBLE_DEVICES chooses a GPU)."
            )
        self.dataset_file()

    def dataset_file(self) -> str:
        """Return the data set config; UserError if `pictures` is nothing that can be read."""
        path = Path(self.pictures).expanduser()
        if path.is_dir():
            return str(find_file("configs/datasets/image_folder.yaml"))
        if path.is_file():
            if path.suffix.lower() in LISTS:
                return str(find_file("configs/datasets/image_list.yaml"))
            raise UserError(
                f"{path} is a file, expected a folder with one folder of pictures per class, or a list of pictures "
                f"({', '.join(LISTS)})."
            )
        named = find_file(f"configs/datasets/{self.pictures}.yaml")
        if named.is_file():
            return str(named)
        known = sorted(p.stem for p in find_file("configs/datasets").glob("*.yaml") if "image_" not in p.stem)
        raise UserError(
            f"{self.pictures!r} is not a folder, a list of pictures or the name of a data set."
            f"{did_you_mean(self.pictures, known)} The data sets: {', '.join(known)}."
        )

    def trainer_file(self) -> str:
        """Return the published config of the trainer."""
        name = "tiny" if self.backbone == "tiny" else published_config("base2new", self.trainer, self.name, self.shots)
        folder = find_file(f"configs/trainers/{self.trainer}")
        file = folder / f"{name}.yaml"
        if not file.is_file():
            there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
            raise UserError(
                f"{self.trainer} has no config for {self.backbone} (configs/trainers/{self.trainer}: {there}): "
                "train it with train.py --config-file FILE."
            )
        return str(file)

    def arguments(self) -> list[str]:
        """Return the arguments of train.py that training and zero-shot CLIP share. The pictures are read.

        Raises:
            UserError: the pictures or the backbone cannot be read.
        """
        if self.device == "cuda":
            from qprompt.runs.devices import check_device

            check_device(self.device)
        path, file = Path(self.pictures).expanduser(), self.trainer_file()
        root = str(path) if path.is_dir() else self.root or (str(path.absolute().parent) if path.is_file() else "")
        words = ["--seed", str(self.seed), "--backbone", self.backbone]
        words += ["--dataset-config-file", self.dataset_file(), "--config-file", file]
        words += ["--root", root] if root else []
        options: dict[str, Any] = {"DATASET.NUM_SHOTS": self.shots}
        if path.is_file():
            options["DATASET.LIST"] = str(path.absolute())
        if self.backbone_path:
            options["MODEL.BACKBONE.PATH"] = self.backbone_path
        if self.device == "cpu":
            options["USE_CUDA"] = False
        if self.deterministic:
            options["DETERMINISTIC"] = True
        if not self.augment:
            options["INPUT.TRANSFORMS"] = "['normalize']"
        if self.backbone_path or self.backbone != config.value_in_file(file, "MODEL.BACKBONE.NAME"):
            if path.exists():
                self._check_pictures(path, root)  # before weights are downloaded
            options["INPUT.SIZE"] = self._input_size()
        return words + [str(word) for pair in options.items() for word in pair] + list(self.settings)

    def _input_size(self) -> str:
        from qprompt.backbones import load_clip

        side = load_clip(self.backbone, self.backbone_path).visual.input_resolution
        return f"({side}, {side})"

    def _check_pictures(self, path: Path, root: str) -> None:
        from qprompt.data import fewshot
        from qprompt.data.image_folder import image_folder
        from qprompt.data.item_list import item_list

        typed = dict(zip(self.settings[::2], self.settings[1::2], strict=False))
        layout = str(typed.get("DATASET.LAYOUT", "auto"))
        source = image_folder(path, layout) if path.is_dir() else item_list(path, Path(root))
        fewshot.load(source, self.shots, self.seed, "all", write=False)


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, its metrics, those of zero-shot CLIP, and whether it had finished before."""

    folder: Path
    metrics: Metrics
    zero_shot: Metrics
    already: bool


def train_on_pictures(run: PictureRun, progress: TextIO | None = None, quiet: bool = True) -> Result:
    """Train and test, then test zero-shot CLIP on the same pictures. A run that has finished is not repeated.

    Args:
        run: what to train, on what.
        progress: where to show progress; None shows none.
        quiet: write the log to log.txt only.

    Raises:
        UserError: a mistake in `run`, before any long work.
    """
    run.check()
    with contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()):
        shared, shown = run.arguments(), RunProgress(progress)

    def finished(trainer: str, out: Path) -> tuple[Metrics, bool]:
        arguments = parse_args(["--trainer", trainer, "--output-dir", str(out), *shared])
        try:
            execute(arguments, find_project(), quiet, lambda built: shown.watch(built, trainer))
        except AlreadyFinished:
            return read_metrics(out / METRICS), True
        return read_metrics(out / METRICS), False

    metrics, already = finished(run.trainer, run.output)
    zero_shot = metrics if run.trainer == ZERO_SHOT else finished(ZERO_SHOT, run.output / _BASELINE)[0]
    return Result(run.output, metrics, zero_shot, already)
