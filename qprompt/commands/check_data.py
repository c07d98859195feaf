"""Find what is wrong with the data sets below a data root, and what to do about each fault.

Examples:
  qprompt check-data /data                              every data set of the benchmark that is there
  qprompt check-data /data eurosat DTD                  these two
  qprompt check-data /data --structure-only             without opening the images (seconds)
  qprompt check-data my_pictures ImageFolder            a tree of your own
  qprompt check-data my_pictures ImageList --list my_pictures/list.csv
  qprompt check-data /data --json -                     for scripts

The exit code is 0 when there is no error, 1 when there is, 2 when the command itself was wrong.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from qprompt.errors import UserError

SHOWN = 20  # unreadable images named one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``qprompt check-data``."""
    add = parser.add_argument
    add("root", help="data root (--root of train.py)")
    add("datasets", nargs="*", metavar="DATASET", help="EuroSAT, dtd, ImageFolder, ... (default: all that are there)")
    add("--list", default="", metavar="FILE", help="the list of an ImageList (DATASET.LIST)")
    add("--structure-only", action="store_true", help="do not open the images")
    add("--workers", type=int, default=0, metavar="N", help="processes that decode images (default: one a processor)")
    add(
        "--json", default="", metavar="FILE", help="write the findings as JSON as well; '-': to standard output instead"
    )


def run(args: argparse.Namespace) -> int:
    """Check, print, return the exit code."""
    from qprompt.io.files import write_json

    root = Path(args.root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"no folder {args.root!r}: it is the data root, which holds the data sets' folders.")
    reports = []
    for name in args.datasets or _present(root):
        # what readers print along the way must not get between the JSON
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


def _present(root: Path) -> list[str]:
    from qprompt.data.downloads import lookalikes
    from qprompt.data.layouts import LAYOUTS
    from qprompt.data.readers import folders_in

    folders = folders_in(root)
    found = [n for n, layout in LAYOUTS.items() if layout.folder in folders or lookalikes(layout, folders)]
    if not found:
        known = ", ".join(layout.folder for layout in LAYOUTS.values())
        raise UserError(
            f"{root} holds none of {known}. For pictures of your own: qprompt check-data {root} ImageFolder"
        )
    return found


def _check(name: str, root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The report on one data set: name, folder, ok, counts, findings."""
    from qprompt.data import checks
    from qprompt.data.downloads import find_layout

    own = name.lower() in ("imagefolder", "imagelist")
    if own:
        name, image_dir = ("ImageFolder" if name.lower() == "imagefolder" else "ImageList"), root
        findings, split = checks.check_own(root, Path(args.list).expanduser() if name == "ImageList" else None)
    else:
        layout = find_layout(name)
        name, image_dir = layout.name, root / layout.folder / layout.images
        findings, split = checks.check_layout(layout, root)
    counts = {}
    if split:
        counts = {"classes": len({item.label for item in split.train})}
        counts |= {part: len(items) for part, items in split._asdict().items()}
        if not args.structure_only:
            findings += _images(name, image_dir, split, args.workers, twins=own)
    return {
        "name": name,
        "folder": str(image_dir),
        "ok": not any(finding.level == "error" for finding in findings),
        "counts": counts,
        "findings": [finding._asdict() for finding in findings],
    }


def _images(name: str, image_dir: Path, split: Any, workers: int, twins: bool) -> list[Any]:
    """Findings on the images that the split names and that are there."""
    from qprompt.data import checks
    from qprompt.data.decode_all import decode_all
    from qprompt.data.fewshot import missing_files

    paths = {item.path for part in split for item in part}
    paths -= set(missing_files(image_dir, paths))
    parts = {item.path: part for part, items in split._asdict().items() for item in items}
    faults: list[str] = []
    doubles: list[str] = []
    seen: dict[str, str] = {}
    for result in decode_all([f"{image_dir}/{path}" for path in sorted(paths)], workers, twins, label=name):
        if result.fault:
            faults.append(result.fault)
        elif twins:
            path = result.path[len(str(image_dir)) + 1 :]
            other = seen.setdefault(result.digest, path)
            if parts[other] != parts[path]:
                doubles.append(f"{other} ({parts[other]}) and {path} ({parts[path]})")
    advice = "Fetch or unpack it again; a run that meets it stops."
    findings = [checks.error("unreadable-image", fault, advice) for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        findings.append(checks.error("unreadable-image", f"and {len(faults) - SHOWN} more images like these.", advice))
    if doubles:
        text = f"{len(doubles)} images are the same in two parts of the split, e.g. {doubles[0]}."
        findings.append(checks.warning("same-image", text, "Delete one of each: accuracies come out too high."))
    return findings


def _print(report: dict[str, Any]) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in report["counts"].items())
    print(
        f"{report['name']}: {'ok' if report['ok'] else 'NOT OK'}  {report['folder']}{f'  ({counts})' if counts else ''}"
    )
    for finding in report["findings"]:
        print(f"  {finding['level']} [{finding['code']}] {finding['message']}\n    -> {finding['advice']}")
