"""``TRAINER.QUANT`` in the config of an unmodified script: checked in merges, and not deleted with other nodes."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from qprompt.dropin import ending
from qprompt.errors import UserError, did_you_mean

given: set[str] = set()  # the keys of TRAINER.QUANT that were set, by a file or on the command line


def check_merges() -> None:
    """Make yacs merge ``TRAINER.QUANT.*`` with this package's checks, and report any unknown key in one line."""
    from yacs.config import CfgNode

    from qprompt.runs.config import set_key

    prefix = "TRAINER.QUANT."
    merge_list, merge_node = CfgNode.merge_from_list, CfgNode.merge_from_other_cfg

    def has_quant(cfg: Any) -> bool:
        return "QUANT" in cfg.get("TRAINER", {})

    def merge_from_list(self: Any, options: list[Any]) -> None:
        others = []
        for key, value in zip(options[::2], options[1::2]):  # noqa: B905 (yacs refuses an odd number)
            if key.startswith(prefix) and has_quant(self):
                set_key(self, key, self._decode_cfg_value(value), "the command line")
                given.add(key.removeprefix(prefix))
            else:
                others += [key, value]
        with _unknown_key_as_user_error(self, "the command line"):
            merge_list(self, others + list(options[len(options) // 2 * 2 :]))

    def merge_from_other_cfg(self: Any, other: Any) -> None:
        if has_quant(self) and has_quant(other):
            other = other.clone()
            for key, value in other.TRAINER.pop("QUANT").items():
                set_key(self, prefix + key, value, "the config file")
                given.add(key)
        with _unknown_key_as_user_error(self, "the config file"):
            merge_node(self, other)

    CfgNode.merge_from_list = ending.remembered(merge_from_list)
    CfgNode.merge_from_other_cfg = ending.remembered(merge_from_other_cfg)


@contextlib.contextmanager
def _unknown_key_as_user_error(cfg: Any, where: str) -> Iterator[None]:
    from qprompt.runs.config import keys

    try:
        yield
    except (AssertionError, KeyError) as error:  # yacs raises the first for a list of options, the second for a file
        unknown = re.fullmatch(r"Non-existent (?:config )?key: (.+)", str(error.args[0]) if error.args else "")
        if unknown is None:
            raise
        raise UserError(f"{where}: no config key {unknown[1]}.{did_you_mean(unknown[1], keys(cfg))}") from None


def keeping_quant(clean: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    """Wrap `clean_cfg`, which deletes the config nodes of other trainers: keep those that QX reads."""

    def clean_cfg(cfg: Any, trainer: str) -> None:
        quant = cfg.TRAINER.QUANT
        clean(cfg, trainer[1:] if trainer.startswith("Q") and trainer[1:].upper() in cfg.TRAINER else trainer)
        cfg.TRAINER.QUANT = quant

    return clean_cfg
