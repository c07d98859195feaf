"""Pack a checkpoint of CoOp, MaPLe or a similar method into a prompt file.

A full-precision checkpoint is quantized (post-training): by default to 1 bit for CoOp, KgCoOp and ProGrad, and to 4
bits for MaPLe, IVLP, PromptSRC, VPT and CoCoOp. A quantized checkpoint keeps the levels of its training, unless --bits
or --method is given. Checkpoints of the original trainers work too.

Examples:
  qprompt pack output/pets/prompt_learner/model.pth.tar-200
  qprompt pack MultiModalPromptLearner/model.pth.tar-5 --bits 4 --backbone ViT-B/16 --classes names.txt \\
      --out pets.qprompt
"""

import argparse
from pathlib import Path

from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt pack``."""
    add = parser.add_argument
    add("checkpoint", help="checkpoint file, or a folder with model.pth.tar-* (its last epoch)")
    add("--out", metavar="FILE", help="prompt file to write (default: prompt.qprompt next to the checkpoint)")
    add("--overwrite", action="store_true", help="replace an existing prompt file")
    add("--bits", type=int, help="bits per weight: 1 to 8, or 16")
    add("--method", help="quantizer, which chooses the levels (default kmeans)")
    add("--backbone", help="name of the backbone to store, which 'qprompt predict' then loads")
    add("--classes", help="class names to store, e.g. 'cat,dog', or a file with one per line")
    add("--words", help="words before the class name to store, e.g. 'a photo of a'")
    add("--class-position", choices=("end", "middle", "front"), help="position of the class name to store")


def run(args: argparse.Namespace) -> None:
    """Write the prompt file and print its size."""
    path = checkpoint_file(args.checkpoint)
    out = Path(args.out) if args.out else path.parent / "prompt.qprompt"
    if out.exists() and not args.overwrite:
        raise UserError(f"{out} already exists: name another file with --out, or type --overwrite to replace it.")

    from qprompt.io.torch_files import read_checkpoint
    from qprompt.prompt_files.inspection import inspect
    from qprompt.prompt_files.packing import pack
    from qprompt.prompt_files.upstream import find_prompts
    from qprompt.quantization.config import QuantConfig

    _, state = read_checkpoint(path)
    config = None
    if args.bits is not None or args.method:
        bits = args.bits if args.bits is not None else find_prompts(state).method.bits
        config = QuantConfig(bits=bits, **({"method": args.method} if args.method else {}))
    about = {"classnames": args.classes, "backbone": args.backbone, "words": args.words}
    pack(state, out, config, **about, class_position=args.class_position)
    about = inspect(out)
    half = f" and {about['half_bytes']:,} in half precision" if about["half_bytes"] else ""
    print(
        f"{out}: {about['method']}, {about['payload_bytes']:,} bytes quantized{half}, {about['file_bytes']:,} in total"
    )


def checkpoint_file(path: str | Path) -> Path:
    """Return `path`, or the checkpoint of the last epoch if it is a folder."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"there is no checkpoint {path}.")
    epochs = {int(p.name.rpartition("-")[2]): p for p in path.glob("model.pth.tar-*[0-9]")}
    if not epochs:
        raise UserError(f"{path} contains no model.pth.tar-EPOCH: name the checkpoint file, or its folder.")
    return epochs[max(epochs)]
