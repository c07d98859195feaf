"""Find faults in the data sets below a data root and say how to fix them.

Examples:
  qprompt check-data /data                              all data sets of the benchmark found there
  qprompt check-data /data eurosat DTD                  two data sets
  qprompt check-data /data --structure-only             without reading the images (takes seconds)
  qprompt check-data my_images ImageFolder              your own data with one folder per class
  qprompt check-data my_images ImageList --list my_images/list.csv
  qprompt check-data /data eurosat --rename             rename images as the split spells them
  qprompt check-data /data --json -                     output for scripts

The exit code is 0 without errors, 1 with errors, and 2 if the command itself is invalid.
"""

import argparse
import contextlib
import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from qprompt.errors import UserError

CONTEXT_LENGTH, DEFAULT_VECTORS = 77, 16  # tokens of CLIP's text encoder; N_CTX of CoOp and QCoOp


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt check-data``."""
    add = parser.add_argument
    add("root", help="data root (--root of train.py)")
    add("datasets", nargs="*", metavar="DATASET", help="EuroSAT, dtd, ImageFolder, ... (default: all that exist)")
    add("--list", default="", metavar="FILE", help="the list for ImageList (DATASET.LIST)")
    add("--layout", default="auto", metavar="LAYOUT", help="what the folders of ImageFolder mean (DATASET.LAYOUT)")
    add("--classnames", default="", metavar="FILE", help="other class names (DATASET.CLASSNAMES), for your own data")
    add("--rename", action="store_true", help="first give images the names of the split (case, suffix, Unicode form)")
    add("--structure-only", action="store_true", help="do not read the images")
    add("--workers", type=int, default=0, metavar="N", help="number of processes (default: one per processor)")
    add("--json", default="", metavar="FILE", help="also write the findings as JSON; '-': print only JSON")


def run(args: argparse.Namespace) -> int:
    """Check the data sets and print the findings; return the exit code."""
    from qprompt.io.files import write_json

    root = Path(args.root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(
            f"{args.root!r} is not a folder: expected the data root, which holds the folders of the data sets."
        )
    reports = []
    for name in args.datasets or _find_data_sets(root):
        # Log messages must not mix with the JSON.
        with contextlib.redirect_stdout(sys.stderr if args.json == "-" else sys.stdout):
            report = _check(name, root, args)
        reports.append(report)
        if args.json != "-":
            _print(report)
    result = {"root": str(root), "ok": all(report["ok"] for report in reports), "datasets": reports}
    if args.json == "-":
        json.dump(result, sys.stdout, indent=2)
        print()
    elif args.json:
        write_json(args.json, result)
    return 0 if result["ok"] else 1


def _find_data_sets(root: Path) -> list[str]:
    from qprompt.data.downloads import image_folder_names, similar_folders
    from qprompt.data.findings import check_command
    from qprompt.data.layouts import LAYOUTS
    from qprompt.data.readers import folders_in

    folders = folders_in(root)
    found = [
        name
        for name, layout in LAYOUTS.items()
        if layout.folder in folders or similar_folders(layout, folders) or image_folder_names(layout) & set(folders)
    ]
    if not found:
        known = ", ".join(layout.folder for layout in LAYOUTS.values())
        raise UserError(f"{root} holds none of {known}. To check your own data: {check_command('ImageFolder', root)}")
    return found


def _check(name: str, root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the report on one data set: name, folder, ok, counts, findings."""
    from qprompt.data import checks, own_checks
    from qprompt.data.downloads import find_layout
    from qprompt.data.image_checks import check_images
    from qprompt.data.images import pixels_of
    from qprompt.data.whence import Whence

    custom = name.lower() in ("imagefolder", "imagelist")
    remarks: list[str] = []
    renamed = 0
    while True:
        if custom:
            list_file = _list_file(args, root) if name.lower() == "imagelist" else None
            whence, image_dir = Whence("ImageList" if list_file else "ImageFolder", root, list_file), root
            findings, split, remarks = own_checks.check_own(whence, args.layout, args.classnames)
        else:
            layout = find_layout(name)
            whence, image_dir = checks.whence_of(layout, root), root / layout.folder / layout.images
            findings, split = checks.check_layout(layout, root)
        if renamed or not (args.rename and split):
            break
        renamed = _rename(split, image_dir)
        if not renamed:
            break
    if renamed:
        remarks = [*remarks, f"renamed {renamed:,} images as they are listed"]
    if custom and split:
        findings += _check_prompts(split)
    counts: dict[str, int] = {}
    converted: Counter[str] = Counter()
    if split:
        counts = {"classes": len({item.label for item in split.train})}
        counts |= {part: len(items) for part, items in split._asdict().items()}
        if not args.structure_only:
            found, converted = check_images(split, image_dir, whence, args.workers)
            findings += found
    return {
        "name": whence.name,
        "folder": str(image_dir),
        "ok": not any(finding.level == "error" for finding in findings),
        "counts": counts,
        "pixels": pixels_of(whence.name),
        "converted": dict(sorted(converted.items())),
        "remarks": remarks,
        "findings": [finding._asdict() for finding in findings],
    }


def _list_file(args: argparse.Namespace, root: Path) -> Path:
    if not args.list:
        raise UserError(
            f"ImageList needs a list: type qprompt check-data {shlex.quote(args.root)} ImageList --list FILE"
        )
    file = Path(args.list).expanduser()
    found = next((path for path in (file, root / file) if path.is_file()), None)  # as train.py looks for it
    if found is None:
        raise UserError(f"no list {args.list!r}, nor one in {root}: --list expects a .csv, .tsv, .json or .jsonl file.")
    return found


def _rename(split: Any, image_dir: Path) -> int:
    """Give images the names that the split lists; return how many."""
    from qprompt.data.fewshot import missing_files
    from qprompt.data.other_names import find_other_names, rename

    paths = {item.path for part in split for item in part}
    names = find_other_names(image_dir, missing_files(image_dir, paths), paths)
    rename(image_dir, names)
    return len(names)


def _check_prompts(split: Any) -> list[Any]:
    """Find classes with the same prompt, and names that leave too little room for a context."""
    from qprompt.data.findings import error, warning
    from qprompt.prompted_clip import describe_no_words, describe_same_prompts, token_counts

    names = sorted({(item.label, item.classname) for item in split.train})
    classnames = [name for _, name in names]
    findings = []
    if problem := describe_same_prompts(classnames):
        advice = (
            "Put their images into one class, or give other names: DATASET.CLASSNAMES FILE, here --classnames FILE."
        )
        findings.append(error("same-prompt", f"{problem}.", advice))
    if problem := describe_no_words(classnames):
        findings.append(error("no-words", f"{problem}.", "Name it: DATASET.CLASSNAMES FILE, here --classnames FILE."))
    for name, count in zip(classnames, token_counts(classnames), strict=True):
        room = CONTEXT_LENGTH - count - 3  # start, end and full stop
        if room >= DEFAULT_VECTORS:
            continue
        text = (
            f"Class {name[:60]!r}... has {count} tokens: of the {CONTEXT_LENGTH} of a prompt, {max(room, 0)} are left"
        )
        text += f" for the context, which has {DEFAULT_VECTORS} vectors by default."
        advice = "Shorten it: DATASET.CLASSNAMES FILE, here --classnames FILE."
        finding = warning if room > 0 else error
        findings.append(finding("long-name", text, advice + (" Or lower N_CTX." if room > 0 else "")))
    return findings


def _print(report: dict[str, Any]) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in report["counts"].items())
    print(
        f"{report['name']}: {'ok' if report['ok'] else 'NOT OK'}  {report['folder']}{f'  ({counts})' if counts else ''}"
    )
    if report["converted"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["converted"].items())
        if report["pixels"] == "viewer":
            print(f"  converted, so that CLIP sees what a viewer shows: {kinds}")
        else:
            print(f"  a viewer shows other pixels than CoOp reads, which are used here: {kinds}")
    for remark in report["remarks"]:
        print(f"  {remark}")
    for finding in report["findings"]:
        print(f"  {finding['level']} [{finding['code']}] {finding['message']}\n    -> {finding['advice']}")
