"""Output folders and published configs of each protocol, from assets/protocol.yaml.

For scripts:

  python -m qprompt.runs.protocol config PROTOCOL TRAINER DATASET SHOTS    the published config of a trainer
  python -m qprompt.runs.protocol folder NAME KEY=VALUE...                 an output folder
"""

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

PROTOCOLS = ("base2new", "few_shot", "cross_dataset")
# In the spec of a sweep, stands for the config that `published_config` returns.
PUBLISHED = "published"


@cache
def _assets() -> dict[str, Any]:
    return yaml.safe_load(resources.files("qprompt").joinpath("assets/protocol.yaml").read_text(encoding="utf-8"))


def folder(name: str, variant: str = "", **values: Any) -> str:
    """Return an output folder.

    Args:
        name: Which one, a key of "folders" in assets/protocol.yaml.
        variant: Name of a variant of the settings, if there is one.
        **values: What else the folder is made of: output, dataset, shots, trainer, cfg, seed, classes.
    """
    parts = [part.format(variant=variant, **values) for part in _assets()["folders"][name].split("/")]
    return "/".join(part for part in parts if part)


def published_config(protocol: str, trainer: str, dataset: str, shots: int) -> str | None:
    """Return the name of the config of the published experiments, or None where there are none."""
    configs = _assets()["configs"]
    return choose(configs.get(trainer, configs.get(trainer.removeprefix("Q"))), protocol, dataset, shots)


def choose(choice: Any, *keys: str | int) -> str | None:
    """Return the config that a choice gives for `keys`.

    Args:
        choice: The name of a config, or a mapping from keys (or "default") to choices; None gives None.
        *keys: A mapping is entered by the first of these that it has, else by "default".
    """
    while isinstance(choice, dict):
        choice = choice.get(next((key for key in keys if key in choice), "default"))
    return None if choice is None else str(choice)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what a script asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qprompt.runs.protocol")
    kinds = parser.add_subparsers(dest="kind", required=True)
    asked = kinds.add_parser("folder")
    asked.add_argument("name", choices=_assets()["folders"])
    asked.add_argument("values", nargs="+", metavar="KEY=VALUE", type=lambda word: word.split("=", 1))
    asked = kinds.add_parser("config")
    asked.add_argument("protocol", choices=PROTOCOLS)
    asked.add_argument("trainer")
    asked.add_argument("dataset")
    asked.add_argument("shots", type=int)
    args = parser.parse_args(argv)
    if args.kind == "folder":
        print(folder(args.name, **dict(args.values)))
        return 0
    config = published_config(args.protocol, args.trainer, args.dataset, args.shots)
    if config is None:
        hint = f"type CFG=NAME (configs/trainers/{args.trainer}/NAME.yaml)"
        print(f"No published config of {args.trainer} is known: {hint}.", file=sys.stderr)
        return 2
    print(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
