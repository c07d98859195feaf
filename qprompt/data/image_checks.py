"""Read all images of a split: which cannot be read, which are the same, and which a viewer converts."""

from collections import Counter
from pathlib import Path

from qprompt.data.decode_all import decode_all
from qprompt.data.fewshot import missing_files
from qprompt.data.findings import Finding, error, warning
from qprompt.data.items import Split
from qprompt.data.whence import Whence

MAX_SHOWN = 20  # images that are named


def check_images(split: Split, image_dir: Path, whence: Whence, workers: int) -> tuple[list[Finding], Counter[str]]:
    """Decode the images of the split that exist; in data of the user, compare files across the parts of the split.

    Args:
        split: The split with all images.
        image_dir: The folder that item paths are relative to.
        whence: Where the data come from.
        workers: The number of processes; 0: one per processor.

    Returns:
        The findings, and how many images a viewer converts in which way.
    """
    duplicates = not whence.pages
    paths = {item.path for part in split for item in part}
    paths -= set(missing_files(image_dir, paths))
    parts = {item.path: part for part, items in split._asdict().items() for item in items}
    labels = {item.path: item.label for part in split for item in part}
    faults: list[tuple[str, Path]] = []
    converted: Counter[str] = Counter()
    repeated: list[str] = []
    two_labels: list[str] = []
    seen: dict[str, str] = {}
    for result in decode_all([f"{image_dir}/{path}" for path in sorted(paths)], workers, duplicates, label=whence.name):
        converted.update(result.notes)
        if result.fault:
            faults.append((result.fault, Path(result.path)))
        elif duplicates:
            path = result.path[len(str(image_dir)) + 1 :]
            other = seen.setdefault(result.digest, path)
            if labels[other] != labels[path]:
                two_labels.append(f"{other} and {path}")
            elif parts[other] != parts[path]:
                repeated.append(f"{other} ({parts[other]}) and {path} ({parts[path]})")
    findings = [error("unreadable-image", fault, whence.image_again(path)) for fault, path in faults[:MAX_SHOWN]]
    if len(faults) > MAX_SHOWN:
        text = f"{len(faults) - MAX_SHOWN} more unreadable images."
        findings.append(error("unreadable-image", text, "Do the same with them: this command names the next ones."))
    if two_labels:
        text = f"{len(two_labels)} images are identical and in two classes: {_some(two_labels)}."
        findings.append(error("two-labels", text, "Delete the one in the wrong class: at most one label is right."))
    if repeated:
        text = f"{len(repeated)} images are identical in two parts of the split: {_some(repeated)}."
        findings.append(
            warning("same-image", text, "Delete one of each pair: testing on training images overstates accuracy.")
        )
    return findings, converted


def _some(pairs: list[str]) -> str:
    """Return the first pairs as text, and how many more there are."""
    more = [f"{len(pairs) - MAX_SHOWN} more"] if len(pairs) > MAX_SHOWN else []
    return "; ".join(pairs[:MAX_SHOWN] + more)
