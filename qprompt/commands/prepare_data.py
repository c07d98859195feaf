"""Unpack a downloaded data set into the folders that runs read, and say where to get what is missing.

Examples:
  qprompt prepare-data EuroSAT /data                      where to get it, or unpack what lies in /data
  qprompt prepare-data caltech101 /data --from ~/Downloads
  qprompt prepare-data ImageNet /data                     also puts images/val into class folders
  qprompt prepare-data Food101 /data --draw-split 1       a split of your own, if CoOp's file cannot be had

Nothing is downloaded, nothing is overwritten, and the archives stay where they are. Run it again at any time.
"""

import argparse
from pathlib import Path

from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``qprompt prepare-data``."""
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="EuroSAT, dtd, oxford_pets, ...")
    add("root", help="data root; the data set gets a folder of its own in it")
    add("--from", dest="place", default="", metavar="DIR", help="where the archives lie (default: root and its folder)")
    add("--draw-split", type=int, metavar="SEED", help="draw a split: other numbers than with the published one")


def run(args: argparse.Namespace) -> int:
    """Prepare, check, print what is left to do; 1 if anything is."""
    from qprompt.data import downloads
    from qprompt.data.checks import check_layout
    from qprompt.data.prepare import draw_split, prepare

    layout = downloads.find_layout(args.dataset)
    root = Path(args.root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"no folder {args.root!r}: make it first, it is to hold all data sets.")
    place = Path(args.place).expanduser().absolute() if args.place else None
    if place and not place.is_dir():
        raise UserError(f"--from {args.place!r} is no folder.")
    prepare(layout, root, [place] if place else [])
    if args.draw_split is not None:
        draw_split(layout, root, args.draw_split)
    findings, _ = check_layout(layout, root)
    for finding in findings:
        print(f"{finding.level}: {finding.message}")
    if not findings:
        print(f"{layout.name} is ready in {root / layout.folder}. 'qprompt check-data' also opens every image.")
        return 0
    print(f"\nTo get {layout.name}:")
    for page in downloads.PAGES[layout.name]:
        print(f"  {page}")
    names = downloads.archive_names(layout.name)
    print(f"    {', '.join(names)}")
    extra = [f"split_zhou_{layout.split_name}.json"] if layout.split_name else []
    extra += [name for name in layout.needs if name in ("classnames.txt", "cat_to_name.json")]
    if extra:
        print(f"  {downloads.SPLITS}\n    {', '.join(extra)}")
    print(f"Put the files into {place or root} and run this again.")
    return int(any(finding.level == "error" for finding in findings))
