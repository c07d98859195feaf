"""Unpack a prompt file into a checkpoint that the unmodified original trainer loads.

The checkpoint is written where that trainer looks for it: model.pth.tar-EPOCH in DIR/prompt_learner (CoOp, CoCoOp,
VPT), DIR/MultiModalPromptLearner (MaPLe) or DIR/VLPromptLearner (IVLP). Evaluate it with --model-dir DIR
--load-epoch EPOCH. A prompt of 'python -m qprompt train.py' says itself which folder and names its trainer reads: it
needs no --as.

Examples:
  qprompt unpack pets.qprompt --as coop --output-dir output/pets_unpacked
  qprompt unpack MMRL/output/prompt.qprompt --output-dir output/mmrl_unpacked
"""

import argparse
from pathlib import Path

from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt unpack``."""
    add = parser.add_argument
    add("file", help="prompt file")
    add(
        "--as",
        dest="kind",
        metavar="TRAINER",
        help="trainer to write it for: coop, cocoop, maple, ivlp or vpt (default: the one that the file names)",
    )
    add("--output-dir", required=True, metavar="DIR", help="folder to write to, the trainer's --model-dir")
    add("--epoch", type=int, default=1, help="epoch in the name of the checkpoint (default 1)")


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint and print how to use it."""
    from qprompt.prompt_files.paths import check_prompt_file

    check_prompt_file(args.file)
    import torch

    from qprompt.io.files import atomic_open
    from qprompt.prompt_files.packing import unpack, unpack_original
    from qprompt.prompts import get_method

    if args.kind:
        states = {get_method(args.kind).folder: unpack(args.file, args.kind)}
    else:
        states = unpack_original(args.file)
    paths = {folder: Path(args.output_dir) / folder / f"model.pth.tar-{args.epoch}" for folder in states}
    for path in paths.values():
        if path.exists():
            raise UserError(f"{path} already exists: choose another --output-dir or --epoch.")
    for folder, path in paths.items():
        with atomic_open(path) as file:
            torch.save({"state_dict": states[folder], "epoch": args.epoch, "val_result": None}, file)
        print(f"{path}: {len(states[folder])} tensors")
    print(f"Evaluate with --eval-only --model-dir {args.output_dir} --load-epoch {args.epoch}")
