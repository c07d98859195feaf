"""Run train.py of an unmodified upstream checkout on a small generated data set with a small random CLIP.

data = make_caltech_tree(tmp_path / "data")
clip = save_tiny_clip_archive(tmp_path / "clip.pt")
log = run_checkout(checkout("coop"), train_args(data, tmp_path / "out", "CoOp"), clip=clip)
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qprompt.backbones.random_weights import ClipShape, random_state_dict

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "tests" / "upstream_site"
BUNDLED = ROOT / "qprompt" / "engine"  # on sys.path, it makes `import dassl` work
VARIABLES = {
    "dassl": "QPROMPT_DASSL",
    "coop": "QPROMPT_COOP",
    "maple": "QPROMPT_MAPLE",
    "promptsrc": "QPROMPT_PROMPTSRC",
    "kgcoop": "QPROMPT_KGCOOP",
}

PIXELS = 32
SMALL = ClipShape(48, PIXELS, 3, 128, 8, 64, 1, 3)
# MaPLe, PromptSRC and trainers derived from them contain the widths of ViT-B/16.
WIDE = ClipShape(512, PIXELS, 2, 768, 16, 512, 8, 2)


def checkout(name: str) -> Path:
    """Return the checkout whose path is in the environment (see VARIABLES); skip the test if there is none."""
    path = os.environ.get(VARIABLES[name])
    if not path:
        pytest.skip(f"set {VARIABLES[name]} to a checkout of {name} to run this")
    if name != "dassl" and not (Path(path) / "train.py").is_file():
        pytest.fail(f"{VARIABLES[name]} is {path}, which contains no train.py (KgCoOp's is in its folder KgCoOp)")
    return Path(path)


def make_caltech_tree(root: Path, classes: int = 10, images: int = 12, names: Sequence[str] = ()) -> Path:
    """Make a Caltech101 folder with a split file and return `root`, for ``--root``; `names` are those of its classes.

    Images are noise around one colour per class, the same on every machine. Half of them are train, then val and test.
    """
    folder = root / "caltech-101"
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    parts = ["train"] * (images // 2) + ["val"] * (images // 6)
    parts += ["test"] * (images - len(parts))
    for label in range(classes):
        name = names[label] if names else f"thing_{label:02d}"
        (folder / "101_ObjectCategories" / name).mkdir(parents=True, exist_ok=True)
        for k, part in enumerate(parts):
            rng = np.random.default_rng([label, k])
            colour = np.random.default_rng(label).integers(40, 216, 3)
            pixels = np.clip(colour + rng.normal(0, 40, (PIXELS + 8, PIXELS + 16, 3)), 0, 255)
            file = f"{name}/image_{k:04d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "101_ObjectCategories" / file)
            split[part].append([file, label, name])
    (folder / "split_zhou_Caltech101.json").write_text(json.dumps(split), encoding="utf-8")
    return root


class _Holder(torch.nn.Module):
    """Modules nested like the names of a state dict, with its tensors as buffers."""

    def __init__(self, weights: Mapping[str, torch.Tensor]):
        super().__init__()
        inner: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in weights.items():
            head, _, rest = name.partition(".")
            if rest:
                inner.setdefault(head, {})[rest] = value
            else:
                self.register_buffer(name, value)
        for head, part in inner.items():
            self.add_module(head, _Holder(part))

    def forward(self) -> int:
        return 0


def save_tiny_clip_archive(path: Path, shape: ClipShape = SMALL, seed: int = 0) -> Path:
    """Save a TorchScript archive of random fp16 weights in OpenAI's format; return `path`."""
    weights = random_state_dict(shape, seed)
    weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    sizes = {"input_resolution": shape.image_resolution, "context_length": shape.context_length}
    sizes["vocab_size"] = shape.vocab_size
    weights |= {name: torch.tensor(size) for name, size in sizes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.script(_Holder(weights)).save(str(path))
    return path


def train_args(
    data: Path, output: Path, trainer: str, *options: object, config: str = "", shots: int = 4, seed: int = 1
) -> list[str]:
    """Return arguments of an upstream train.py for a short run on `make_caltech_tree`: fp32, images of 32 pixels.

    Args:
        data: Data root.
        output: Output folder.
        trainer: Name of the trainer.
        options: KEY VALUE pairs, after flags such as ``--eval-only``.
        config: File in configs/trainers; "": CoOp's vit_b16_ctxv1.
        shots: Images per class.
        seed: Random seed.
    """
    given = [str(option) for option in options]
    first_key = next((i for i, option in enumerate(given) if "." in option and option.isupper()), len(given))
    config_file = config or "CoOp/vit_b16_ctxv1.yaml"
    settings = {
        "DATASET.NUM_SHOTS": shots,
        "INPUT.SIZE": f"({PIXELS}, {PIXELS})",
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 8,
        "OPTIM.MAX_EPOCH": 2,
        "TRAINER.COOP.PREC": "fp32",
    }
    return [
        *("--root", str(data), "--output-dir", str(output), "--seed", str(seed), "--trainer", trainer),
        *("--dataset-config-file", "configs/datasets/caltech101.yaml"),
        *("--config-file", f"configs/trainers/{config_file}", *given[:first_key]),
        *(str(word) for pair in settings.items() for word in pair),
        *given[first_key:],
    ]


def run_checkout(
    folder: Path,
    args: Sequence[str],
    *,
    clip: Path,
    engine: str = "bundled",
    program: Sequence[str] = ("train.py",),
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float = 2500,
) -> str:
    """Run ``python train.py ARGS`` in a checkout and return its output (both streams).

    Args:
        folder: The checkout.
        args: Arguments of the program.
        clip: Archive that its CLIP loader gets for any backbone.
        engine: "bundled", "dassl" (the checkout in QPROMPT_DASSL), or "none" for a program that finds one itself.
        program: What python runs, such as ``("-m", "qprompt", "train.py")``.
        python: The interpreter.
        env: Additional environment variables.
        check: Fail the test if the exit code is not 0.
        timeout: Seconds.
    """
    paths = [SITE, ROOT]
    if engine == "bundled":
        paths.append(BUNDLED)
    elif engine == "dassl":
        paths.append(checkout("dassl"))
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CLIP_ARCHIVE": str(clip),
        "OMP_NUM_THREADS": "1",
        **(env or {}),
    }
    done = subprocess.run(
        [python, *program, *args],
        cwd=folder,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(program)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout
