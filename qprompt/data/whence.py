"""Where the images and the list of a data set come from, and so what to do if they are not right."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qprompt.data.findings import check_command, hide_command, prepare_command
from qprompt.data.tree import readable_command


@dataclass(frozen=True)
class Whence:
    """The source of a data set.

    Attributes:
        name: The data set's name: one of the benchmark, ImageFolder or ImageList.
        root: The data root.
        list_file: The list or split file that is read; None if there is none.
        pages: Where the data set can be downloaded; empty for data of the user.
        list_pages: Where its list can be downloaded.
    """

    name: str
    root: Path
    list_file: Path | None = None
    pages: Sequence[str] = ()
    list_pages: Sequence[str] = ()

    def check_command(self, root: Path | None = None) -> str:
        """Return the command that checks this data set, with another data root."""
        command = check_command(self.name, root or self.root)
        if self.name != "ImageList":
            return command
        return f"{command} --list {shlex.quote(str(self.list_file))}"

    @property
    def rename_command(self) -> str:
        """The command that renames files."""
        return f"{self.check_command()} --rename"

    def list_again(self, own: str) -> str:
        """Return what to do about a list that is wrong; `own` for lists of the user."""
        if not self.pages:
            return own
        if not self.list_file:
            return self.files_again("")
        return (
            f"Download {self.list_file.name} again from {' or '.join(self.list_pages)}, and replace {self.list_file}."
        )

    def files_again(self, path: str) -> str:
        """Return what to do about files that are not there, such as `path`."""
        if self.pages:
            return f"Unpack the archives again: {prepare_command(self.name, self.root)}"
        if found := self._root_of(path):
            return f"The data root may be {found}: {self.check_command(found)}"
        return f"Correct the paths in {self.list_file}, which are relative to {self.root}, or type another data root."

    def image_again(self, path: Path) -> str:
        """Return what to do about an image that cannot be read."""
        if not os.access(path, os.R_OK):
            return f"Type: {readable_command(path.parent)}"
        if self.pages:
            again = prepare_command(self.name, self.root)
            return f"Delete it and unpack it again: {shlex.join(['rm', str(path)])} && {again}"
        if self.name == "ImageFolder":
            return f"Get it again, or hide it: {hide_command(path)}"
        return f"Get it again, or delete its row in {self.list_file}."

    def _root_of(self, path: str) -> Path | None:
        """A folder around the data root or in it, below which `path` is a file."""
        around = [parent for parent in self.root.parents if (parent / path).is_file()]
        inside = (child for child in sorted(self.root.iterdir()) if (child / path).is_file())
        return around[0] if around else next(inside, None)
