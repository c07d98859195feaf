"""Pack a CoOp or MaPLe checkpoint, upstream's or ours, into a prompt file.

A checkpoint of full precision is quantized here (post-training), with 1 bit for CoOp and its like (KgCoOp, ProGrad) and
4 for MaPLe, IVLP, PromptSRC, VPT and CoCoOp unless --bits says otherwise. A quantized checkpoint keeps the levels that
it was trained with, unless --bits is given.

Examples:
  qprompt pack output/pets/prompt_learner/model.pth.tar-200
  qprompt pack MultiModalPromptLearner/model.pth.tar-5 --bits 4 --backbone ViT-B/16 --out pets.qprompt
"""

import argparse
from pathlib import Path

from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``qprompt pack``."""
    add = parser.add_argument
    add("checkpoint", help="checkpoint file, or the folder with model.pth.tar-* (then the last epoch)")
    add("--out", metavar="FILE", help="prompt file to write (default: beside the checkpoint, prompt.qprompt)")
    add("--bits", type=int, help="bits of each weight, 1 to 8, or 16")
    add("--method", help="how levels are chosen (default kmeans)")
    add("--backbone", help="name of the backbone, to be stored: 'qprompt predict' then finds it")
    add("--words", help="the prompt before the class name, e.g. 'a photo of a', to be stored")
    add("--class-position", choices=("end", "middle", "front"), help="of the class name, to be stored")


def run(args: argparse.Namespace) -> None:
    """Write the prompt file and say what it takes."""
    from qprompt.io.torch_files import read_checkpoint
    from qprompt.prompt_files.packing import inspect, pack
    from qprompt.prompt_files.upstream import find_prompts
    from qprompt.quantization.config import QuantConfig

    path = checkpoint_file(args.checkpoint)
    _, state = read_checkpoint(path)
    config = None
    if args.bits is not None or args.method:
        bits = args.bits if args.bits is not None else find_prompts(state).method.bits
        config = QuantConfig(bits=bits, **({"method": args.method} if args.method else {}))
    out = Path(args.out) if args.out else path.parent / "prompt.qprompt"
    pack(state, out, config, backbone=args.backbone, words=args.words, class_position=args.class_position)
    about = inspect(out)
    half = f" and {about['half_bytes']:,} in half precision" if about["half_bytes"] else ""
    print(f"{out}: {about['method']}, {about['payload_bytes']:,} bytes quantized{half}, {about['file_bytes']:,} in all")


def checkpoint_file(path: str | Path) -> Path:
    """`path`, or in a folder the checkpoint of the last epoch."""
    path = Path(path)
    if not path.is_dir():
        return path
    epochs = {int(p.name.rpartition("-")[2]): p for p in path.glob("model.pth.tar-*[0-9]")}
    if not epochs:
        raise UserError(f"{path} holds no model.pth.tar-EPOCH: name the checkpoint file, or the folder it is in.")
    return epochs[max(epochs)]
