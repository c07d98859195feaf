"""Find faults in a data set of the user, class folders or a list of images, and say how to fix them."""

from collections import Counter

from qprompt.data.class_names import read_renames
from qprompt.data.faults import DataFaults
from qprompt.data.findings import Finding, error, warning
from qprompt.data.folder_layout import Ambiguous
from qprompt.data.image_folder import survey
from qprompt.data.item_list import read_item_list
from qprompt.data.items import Split
from qprompt.data.split_checks import check_files, check_split
from qprompt.data.whence import Whence
from qprompt.errors import UserError


def check_own(
    whence: Whence, layout: str = "auto", classnames: str = ""
) -> tuple[list[Finding], Split | None, list[str]]:
    """Check a data set of the user: class folders below the data root, or a list of images.

    Args:
        whence: The data root and the list (see `item_list`); without a list, class folders.
        layout: The meaning of the folders (see `folder_layout.LAYOUTS`).
        classnames: A file with other class names (`read_renames`).

    Returns:
        The findings, the split (None if it cannot be read), and what is not read although it may be no mistake.
    """
    root, list_file = whence.root, whence.list_file
    findings: list[Finding] = []
    remarks: list[str] = []
    try:
        if list_file:
            split = read_item_list(list_file, root)
        else:
            split, left_out, remarks = survey(root, layout)
            for line in left_out.lines(important=True):
                findings.append(warning("left-out", f"Not read: {line}.", "Nothing to do if this is intended."))
            remarks = [*(f"not read: {line}" for line in left_out.lines(important=False)), *remarks]
        split = read_renames(classnames)(split) if classnames else split
    except DataFaults as found:
        again = f" Here: {whence.check_command()} --layout"
        for fault in found.faults:
            layout_typed = fault.advice.partition("type DATASET.LAYOUT ")[2].rstrip(".")
            findings.append(
                error("unreadable-tree", fault.message, fault.advice + f"{again} {layout_typed}" * bool(layout_typed))
            )
        parts = [found.items.get(part, []) for part in Split._fields]
        findings += check_files({item.path for part in parts for item in part}, root, whence)
        return findings, Split(*parts), remarks
    except Ambiguous as reason:
        commands = " or ".join(f"{whence.check_command()} --layout {name}" for name in reason.layouts)
        advice = f"Type DATASET.LAYOUT after the options of train.py, and here: {commands}"
        return [error("ambiguous-tree", str(reason), advice)], None, []
    except UserError as reason:
        message, _, command = str(reason).partition(" Type: ")
        advice = f"Type: {command}" if command else "See docs/your_data.md for the supported layouts."
        return [error("unreadable-tree", message, advice)], None, []
    findings += check_split(split, root, whence)
    sizes = Counter(item.classname for item in split.train)
    name, least = min(sizes.items(), key=lambda pair: pair[1])
    if least < 16:
        text = f"Class {name!r} has only {least} training images: with more shots, all of them are used."
        findings.append(warning("few-images", text, "Nothing to do if this is intended."))
    if all(name.isdigit() for name in sizes):
        text = f"Class names are numbers ({name}, ...): a prompt needs words."
        findings.append(warning("number-names", text, "Set names for training: DATASET.CLASSNAMES names.txt"))
    return findings, split, remarks
