"""Unpack a prompt file into a checkpoint that the unmodified original trainer loads.

The checkpoint is written where that trainer looks for it: model.pth.tar-EPOCH in DIR/prompt_learner (CoOp, CoCoOp,
VPT), DIR/MultiModalPromptLearner (MaPLe) or DIR/VLPromptLearner (IVLP). Evaluate it with --model-dir DIR
--load-epoch EPOCH.

Example:
  qprompt unpack pets.qprompt --as coop --output-dir output/pets_unpacked
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
        required=True,
        metavar="TRAINER",
        help="trainer to write it for: coop, cocoop, maple, ivlp or vpt",
    )
    add("--output-dir", required=True, metavar="DIR", help="folder to write to, the trainer's --model-dir")
    add("--epoch", type=int, default=1, help="epoch in the name of the checkpoint (default 1)")


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint and print how to use it."""
    from qprompt.prompt_files.paths import check_prompt_file

    check_prompt_file(args.file)
    import torch

    from qprompt.io.files import atomic_open
    from qprompt.prompt_files.packing import unpack
    from qprompt.prompts import get_method

    state = unpack(args.file, args.kind)
    path = Path(args.output_dir) / get_method(args.kind).folder / f"model.pth.tar-{args.epoch}"
    if path.exists():
        raise UserError(f"{path} already exists: choose another --output-dir or --epoch.")
    with atomic_open(path) as file:
        torch.save({"state_dict": state, "epoch": args.epoch, "val_result": None}, file)
    how = f"--eval-only --model-dir {args.output_dir} --load-epoch {args.epoch}"
    print(f"{path}: {len(state)} tensors. Evaluate it with {how}")
