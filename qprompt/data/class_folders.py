"""The class folders of a tree, the items in them, and everything that is wrong with them."""

import os
import shlex
from pathlib import Path

from qprompt.data.faults import Fault
from qprompt.data.findings import check_command, hide_command, move_all_command
from qprompt.data.folder_layout import part_of
from qprompt.data.items import Item
from qprompt.data.spelling import in_order, readable
from qprompt.data.tree import EMPTY, NO_CLASS, NO_SPLIT, Folder, LeftOut, printable
from qprompt.errors import did_you_mean

PARTS = ("train", "val", "test")


class ClassFolders:
    """Images by part of the split and class folder.

    Args:
        root: The data root.
        tree: What lies below it.
        layout: What its levels of folders mean, not "auto".
        left_out: Gets what does not fit.
    """

    def __init__(self, root: Path, tree: Folder, layout: str, left_out: LeftOut):
        self.root, self.tree, self.layout, self.left_out = root, tree, layout, left_out
        self.paths: dict[str, dict[str, list[str]]] = {}  # part -> class folder's name -> images
        self.places: dict[str, dict[str, str]] = {}  # part -> class folder's name -> its path
        self.twice: list[tuple[str, str]] = []  # paths of folders with the same class in one part
        self._collect(tree, layout.split("/"), "train", "", "")
        self.names: dict[str, dict[str, str]] = {}  # part -> class -> class folder's name
        for part, folders in self.paths.items():
            self.names[part] = {}
            for folder in folders:
                other = self.names[part].setdefault(readable(folder), folder)
                if other != folder:
                    self.twice.append((self.places[part][other], self.places[part][folder]))

    def _collect(self, folder: Folder, levels: list[str], part: str, name: str, place: str) -> None:
        """Sort the images below `folder`; `levels` are what its subfolders mean."""
        if not levels:
            self.paths.setdefault(part, {}).setdefault(name, []).extend(folder.walk())
            self.places.setdefault(part, {}).setdefault(name, place)
            return
        self.left_out.add(NO_CLASS, *(f"{folder.path}/{image}".lstrip("/") for image in folder.images))
        for child in folder.folders.values():
            if levels[0] == "split" and not part_of(child.name):
                if child.has_images:  # other files are named one by one
                    self.left_out.add(NO_SPLIT, child.path)
            elif levels[0] == "class" and not child.has_images:
                self.left_out.add(EMPTY, child.path)
            elif levels[0] == "class":
                self._collect(child, levels[1:], part, child.name, child.path)
            else:
                child_part = part_of(child.name) if levels[0] == "split" else part
                self._collect(child, levels[1:], child_part, name, place)

    def items(self) -> dict[str, list[Item]]:
        """Return the items of each part. Folders whose names differ only in Unicode form are the same class."""
        order = {name: label for label, name in enumerate(in_order(self.names.get("train", {})))}
        items: dict[str, list[Item]] = {}
        for part, folders in self.paths.items():
            known = [(readable(folder), paths) for folder, paths in folders.items() if readable(folder) in order]
            known.sort(key=lambda pair: order[pair[0]])
            items[part] = [Item(path, order[name], name) for name, paths in known for path in paths]
        return items

    def folder_of(self, item: Item) -> str:
        """Return the path of the class folder of an item of the training images."""
        return self.places["train"][self.names["train"][item.classname]]

    def faults(self, strict: bool) -> list[Fault]:
        """Return everything that is wrong; images without a class and empty class folders only if `strict`."""
        root, layout = self.root, self.layout
        leave = f"To leave them out, type DATASET.LAYOUT {layout}."
        few = self._few_classes()
        faults = list(few)
        if not self.paths:
            return few  # there is nothing beside which images or folders could be left out
        # A part without any class folder holds images whose class is unknown; they are left out, and a line says so.
        loose: dict[str, list[str]] = {}
        for path in self.left_out.paths.get(NO_CLASS, []) if strict else []:
            if self.paths.get(part_of(path.split("/")[0])) or not layout.startswith("split"):
                loose.setdefault(path.rpartition("/")[0], []).append(path)
        for folder, paths in loose.items():
            text = f"{root / folder} holds {len(paths)} images next to folders, for example {printable(paths[0])}:"
            faults.append(Fault(f"{text} put each image into the folder of its class.", leave))
        for path in self.left_out.paths.get(EMPTY, []) if strict and not few else []:
            faults.append(Fault(f"{root / path} holds no images.", leave))
        for one, other in self.twice:
            text = f"{root} has two folders for the class {readable(one.rpartition('/')[2])!r}, whose names differ in"
            text += f" Unicode form or in bytes that are not UTF-8, {ascii(one)} and {ascii(other)}."
            faults.append(Fault(text, f"Move the images: {move_all_command(root / other, root / one)}"))
        known = self.names.get("train", {})
        for part in PARTS[1:]:
            for name, folder in self.names.get(part, {}).items():
                if name not in known:
                    place = self.places[part][folder]
                    text = f"{root / place}: class {printable(folder)!r} has no folder of training images."
                    hide = f"Add training images, or hide it: {hide_command(root / place)}"
                    faults.append(Fault(text + did_you_mean(name, known), hide))
        return faults

    def _few_classes(self) -> list[Fault]:
        known = self.names.get("train", {})
        if len(known) > 1:
            return []
        folders = self.tree.folders.values()
        where = self.root
        if self.layout.startswith("split"):
            where = next((self.root / child.path for child in folders if part_of(child.name) == "train"), where)
        shape = "ROOT/" + "/".join(f"<{level}>" for level in self.layout.split("/")) + "/<image>"
        loose = len(self.left_out.paths.get(NO_CLASS, ()))
        beside = f" and {loose} images without one" if loose else ""
        text = f"{where} has {len(known)} class folders{beside}, expected at least 2: {shape}."
        if deeper := self._deeper_root():
            text += " It holds folders: is --root one level too high?"
            return [Fault(text, f"The data root may be {deeper}: {check_command('ImageFolder', deeper)}")]
        advice = "Put the images of each class into a folder of their own, or list them with their classes in a file"
        lists = [name for name in sorted(os.listdir(self.root)) if name.lower().endswith((".csv", ".tsv", ".jsonl"))]
        file = shlex.quote(str(self.root / lists[0])) if lists else "FILE"
        return [Fault(text, f"{advice}: {check_command('ImageList', self.root)} --list {file}")]

    def _deeper_root(self) -> Path | None:
        """The folder with several folders of images that is alone in the root, or alone in folders that are."""
        folder = self.tree
        while True:
            full = [child for child in folder.folders.values() if child.has_images]
            if folder.images or not full:
                return None
            if len(full) > 1:
                return self.root / folder.path if folder is not self.tree else None
            folder = full[0]
