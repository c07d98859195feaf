"""One reader under test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing.damage import Damage, damage


class Target(NamedTuple):
    """A reader of files, which has to read or refuse (UserError) any file.

    Attributes:
        name: Name of the file that the reader is given.
        seeds: Valid contents; one of them is damaged each time.
        read: Called with the path.
        damage: How the content is damaged.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], Any]
    damage: Damage = damage
