"""The spec of a sweep: a YAML file with a grid of trainers x data sets x shots x seeds x settings.

docs/sweeps.md explains every key.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qprompt.errors import UserError, did_you_mean
from qprompt.io import nested
from qprompt.runs import config
from qprompt.runs.project import find_file, find_project, trainer_names
from qprompt.runs.protocol import PROTOCOLS, PUBLISHED, choose, published_config
from qprompt.training.early_checks import check_name, has_dassl

LONGEST_RANGE = 100_000
# The names of sweeps and variants become names of folders.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set of a spec: ``oxford_pets``, or ``tiny_world@3`` for one draw of a synthetic data set."""

    name: str
    draw: int | None = None

    def __str__(self) -> str:
        return self.name if self.draw is None else f"{self.name}@{self.draw}"


@dataclasses.dataclass(frozen=True)
class Spec:
    """A valid spec. ``trainers`` and ``baselines`` map a trainer to its config, see `config_name`."""

    name: str
    protocol: str
    datasets: tuple[Dataset, ...]
    trainers: dict[str, Any]
    baselines: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: Dataset | None = None
    shots: tuple[int, ...] = (16,)
    seeds: tuple[int, ...] = (1, 2, 3)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    grid: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    load_epoch: int | str = "last"
    slurm: dict[str, Any] = dataclasses.field(default_factory=dict)
    root: str = ""
    output: str = "output"
    train: str = "train.py"
    configs: str = "configs"

    def check_names(self) -> None:
        """Raise UserError for a trainer or data set that does not exist. No config is read, PyTorch is not imported."""
        if not has_dassl():  # it has trainers of its own
            known = trainer_names(find_project())
            for trainer in (*self.baselines, *self.trainers):
                check_name(trainer, known, "trainer", "'trainers'")
        folder = find_file(Path(self.configs) / "datasets")
        names = [path.stem for path in folder.glob("*.yaml")]
        for dataset in (*self.datasets, *filter(None, (self.source,))):
            if dataset.name not in names:
                raise UserError(f"no data set config {folder / dataset.name}.yaml.{did_you_mean(dataset.name, names)}")

    def config_name(self, trainer: str, dataset: Dataset, shots: int) -> str:
        """Return the name of a trainer's config for one run.

        The spec gives one name for all runs, or a mapping by data set, shots and ``default``. The name ``published``
        stands for the config of the published experiments.
        """
        config = choose({**self.baselines, **self.trainers}[trainer], dataset.name, shots)
        if config == PUBLISHED:
            config = published_config(self.protocol, trainer, dataset.name, shots)
            if config is None:
                raise UserError(
                    f"sweep {self.name}: no published config of {trainer} is known: write the name of one of "
                    f"{self.configs}/trainers/{trainer}/."
                )
        if config is None:
            raise UserError(
                f"sweep {self.name}: no config of {trainer} for {dataset} with {shots} shots: add one, "
                "or 'default: NAME'."
            )
        return config


KEYS = tuple(field.name for field in dataclasses.fields(Spec))


def read_spec(path: str, overrides: Sequence[str] = ()) -> Spec:
    """Read and check a spec.

    Args:
        path: The YAML file.
        overrides: ``KEY=VALUE`` for top-level keys, with the value in YAML notation.

    Raises:
        UserError: The file does not exist or is not valid.
    """
    file = find_file(path)
    if not file.is_file():
        ready = find_file("configs/sweeps")
        names = [f"configs/sweeps/{p.relative_to(ready).as_posix()}" for p in sorted(ready.rglob("*.yaml"))]
        raise UserError(f"no sweep spec {path!r}.{did_you_mean(path, names)} The package contains: {', '.join(names)}.")
    data = config.parse_yaml(file.read_bytes(), path)
    if not isinstance(data, dict):
        raise UserError(f"{path} contains a {type(data).__name__}, expected 'key: value' lines.")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is not KEY=VALUE. The keys of a spec: {', '.join(KEYS)}.")
        data[key] = config.parse_yaml(text, f"the value of {key}")
    return _check({"name": file.stem, **data}, path)


def _check(data: dict[Any, Any], path: str) -> Spec:
    for key in data:
        if key not in KEYS:
            raise UserError(f"{path}: no key {key!r} in a sweep spec.{did_you_mean(str(key), KEYS)}")
    for key in ("protocol", "datasets", "trainers"):
        if not data.get(key):
            raise UserError(f"{path}: {key!r} is missing. docs/sweeps.md shows a complete spec.")
    protocol = data["protocol"]
    if protocol not in PROTOCOLS:
        close = did_you_mean(str(protocol), PROTOCOLS)
        raise UserError(f"{path}: no protocol {protocol!r}.{close} It is one of {', '.join(PROTOCOLS)}.")
    if (protocol == "cross_dataset") != ("source" in data):
        raise UserError(
            f"{path}: 'source' (the data set for training) belongs to protocol cross_dataset, and only to it."
        )

    checked = dict(data)
    checked["datasets"] = tuple(d for entry in _list(data["datasets"]) for d in _datasets(entry, path))
    if "source" in data:
        sources = _datasets(data["source"], path)
        if len(sources) != 1:
            raise UserError(f"{path}: 'source' expects one data set, got {data['source']!r}.")
        checked["source"] = sources[0]
    for key in ("shots", "seeds"):
        if key in data:
            checked[key] = tuple(n for entry in _list(data[key]) for n in _numbers(entry, f"{path}: {key}"))
    for key in ("trainers", "baselines", "settings", "variants", "grid", "slurm"):
        if data.get(key) is None:
            checked.pop(key, None)
        elif not isinstance(data[key], dict):
            raise UserError(f"{path}: {key!r} expects 'name: value' lines, got {data[key]!r}.")
    twice = checked["trainers"].keys() & checked.get("baselines", {}).keys()
    if twice:
        raise UserError(f"{path}: {sorted(twice)[0]} is in both 'trainers' and 'baselines'.")
    checked["settings"] = nested.flatten(checked.get("settings", {}))
    checked["variants"] = {str(n): _variant(n, v, path) for n, v in checked.get("variants", {}).items()}
    checked["grid"] = {key: _values(key, values, path) for key, values in checked.get("grid", {}).items()}
    epoch = data.get("load_epoch", "last")
    if epoch not in ("last", "all") and (not isinstance(epoch, int) or epoch < 1):
        raise UserError(f"{path}: load_epoch expects 'last', 'all' or the number of an epoch, got {epoch!r}.")
    for key in ("name", "root", "output", "train", "configs"):
        if key in data:
            checked[key] = str(data[key])
    if not _NAME.fullmatch(checked["name"]):
        raise UserError(
            f"{path}: the name {checked['name']!r} is used as a folder name: letters, digits and . _ + - only."
        )
    checked["train"] = str(find_file(checked.get("train", Spec.train)))
    return Spec(**checked)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _numbers(entry: Any, where: str) -> Iterable[int]:
    """``3`` -> 3; ``1-3`` -> 1, 2, 3."""
    if isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0:
        return [entry]
    bounds = re.fullmatch(r"(\d+)-(\d+)", str(entry))
    if bounds and int(bounds[1]) <= int(bounds[2]) < int(bounds[1]) + LONGEST_RANGE:
        return range(int(bounds[1]), int(bounds[2]) + 1)
    raise UserError(f"{where} expects numbers or ranges such as 1-3, got {entry!r}.")


def _datasets(entry: Any, path: str) -> list[Dataset]:
    """``oxford_pets`` -> one data set; ``tiny_world@0-3`` -> its draws 0, 1, 2 and 3."""
    name, at, draws = str(entry).partition("@")
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: {entry!r} is not a data set. Write NAME, or NAME@DRAW or NAME@FIRST-LAST for draws.")
    if not at:
        return [Dataset(name)]
    numbers = _numbers(int(draws) if draws.isdigit() else draws, f"{path}: the draw of {name}")
    return [Dataset(name, n) for n in numbers]


def _variant(name: Any, settings: Any, path: str) -> dict[str, Any]:
    if not _NAME.fullmatch(str(name)):
        raise UserError(f"{path}: the variant {name!r} is used as a folder name: letters, digits and . _ + - only.")
    if not isinstance(settings, (dict, type(None))):
        raise UserError(f"{path}: the variant {name} expects 'KEY: value' lines, got {settings!r}.")
    return nested.flatten(settings or {})


def _values(key: Any, values: Any, path: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{path}: grid: {key} expects a list of values, got {values!r}.")
    return values
