"""Show the content of a prompt file: method, backbone, tensors, bytes.

Example:
  qprompt inspect output/pets/prompt_learner/prompt.qprompt
"""

import argparse
import json
import math
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt inspect``."""
    parser.add_argument("file", help="prompt file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Check the file and print its content."""
    from qprompt.prompt_files.paths import check_prompt_file

    check_prompt_file(args.file)
    from qprompt.prompt_files.inspection import inspect

    about = inspect(args.file)
    if args.json:
        print(json.dumps(about, indent=2, ensure_ascii=False))
        return
    rows = about.pop("tensors")
    for key, value in about.items():
        print(f"{key:16} {f'{value:,}' if key.endswith('_bytes') else _text(value)}")
    full = sum(2 * math.prod(row["shape"]) for row in rows if row["bits"] <= 8)
    if about["payload_bytes"]:
        print(f"{'compression':16} {full / about['payload_bytes']:.1f} times smaller than half precision (payload)")
    print()
    width = max(len("tensor"), *(len(row["name"]) for row in rows))
    print(f"{'tensor':{width}}  {'shape':>14}  {'type':>8}  {'bits':>4}  {'codebooks':>9}  {'bytes':>10}")
    for row in rows:
        shape = " x ".join(map(str, row["shape"])) or "scalar"
        books = row["groups"] or "-"
        line = f"{row['name']:{width}}  {shape:>14}  {row['dtype']:>8}  {row['bits']:>4}  {books:>9}"
        print(f"{line}  {row['payload_bytes']:>10,}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, list) and len(value) > 20:
        return f"{_text(value[:20])}, ... ({len(value)})"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
