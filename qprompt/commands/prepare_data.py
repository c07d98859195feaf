"""Unpack a downloaded data set into the folders that runs read, and say where to get missing files.

Examples:
  qprompt prepare-data EuroSAT /data                      unpack the archives in /data, or say where to get them
  qprompt prepare-data caltech101 /data --from ~/Downloads
  qprompt prepare-data ImageNet /data                     also sort images/val into class folders
  qprompt prepare-data Food101 /data --draw-split 1       draw a split if CoOp's file is not available

Nothing is downloaded or overwritten, and archives are not removed. The command can be repeated at any time.
"""

import argparse
from pathlib import Path
from typing import Any

from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt prepare-data``."""
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="EuroSAT, dtd, oxford_pets, ...")
    add("root", help="data root; the data set gets a folder in it")
    add(
        "--from",
        dest="place",
        default="",
        metavar="DIR",
        help="folder with the downloaded files (default: root and the data set's folder)",
    )
    add(
        "--draw-split",
        type=int,
        metavar="SEED",
        help="draw a random split: results differ from those with the published split",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare and check the data set and print what is missing; return 1 if there are errors."""
    from qprompt.data import downloads
    from qprompt.data.checks import check_layout
    from qprompt.data.findings import check_command, prepare_command
    from qprompt.data.prepare import draw_split, prepare

    layout = downloads.find_layout(args.dataset)
    root = Path(args.root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{args.root!r} is not a folder: create the data root first, which holds all data sets.")
    place = Path(args.place).expanduser().absolute() if args.place else None
    if place and not place.is_dir():
        raise UserError(f"--from {args.place!r} is not a folder.")
    prepare(layout, root, [place] if place else [])
    if args.draw_split is not None:
        draw_split(layout, root, args.draw_split)
    findings, _ = check_layout(layout, root)
    files = []  # findings that end with new files
    for finding in findings:
        print(f"{finding.level}: {finding.message}")
        if prepare_command(layout.name, root) in finding.advice or finding.code in ("missing-file", "no-split"):
            files.append(finding)
        else:
            print(f"  -> {finding.advice}")
    if not findings:
        print(f"{layout.name} is ready in {root / layout.folder}.")
        print(f"To check every image: {check_command(layout.name, root)}")
        return 0
    if files:
        _print_downloads(layout, place or root)
    return int(any(finding.level == "error" for finding in findings))


def _print_downloads(layout: Any, place: Path) -> None:
    from qprompt.data import downloads

    print(f"\nTo get {layout.name}:")
    for page in downloads.PAGES[layout.name]:
        print(f"  {page}")
    own, shared = downloads.loose_files(layout)
    print(f"    {', '.join([*downloads.archive_names(layout.name), *own])}")
    if shared:
        print(f"  {downloads.SPLITS}\n    {', '.join(shared)}")
    print(f"Put the files into {place} and run this command again.")
