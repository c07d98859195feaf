"""Run every checkout in a folder with and without the launcher, and print a table of what works.

    python tools/try_checkouts.py FOLDER [--only MMRL,DePT] [--out table.md] [--logs FOLDER]

A checkout is found by its folder's name, in any case. Each run takes two classes of a small drawn data set and a small
random CLIP; nothing is measured but equality. The columns:

- X: trains without the launcher and with it, and the logits of its test are equal bit for bit
- QX: trains, and its checkpoint gives equal logits when QX and plain X evaluate it
- tensors: how many are quantized, and how many are trained besides
- unpack: X evaluates the unpacked prompt file, with equal logits
- --fast: what the launcher says
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from qprompt.backbones.random_weights import ClipShape  # noqa: E402
from tests.upstream import BUNDLED, SITE, WIDE, make_caltech_tree, save_tiny_clip_archive  # noqa: E402

CLASSES = ("accordion", "airplane", "anchor", "ant")  # CoPrompt has sentences for Caltech101's
LARGE = replace(WIDE, image_resolution=224)  # for code that counts on 14 x 14 patches
RESNET = ClipShape(128, 64, (1, 1, 1, 1), 16, None, 64, 1, 2)
SHIMS = Path(__file__).with_name("checkout_shims")  # optional packages that checkouts import and do not need here
RECORDING = ROOT / "tests" / "recording.py"


@dataclass(frozen=True)
class Recipe:
    """How to run one trainer.

    Attributes:
        checkout: name of the folder.
        trainer: X.
        config: file in configs/trainers.
        options: KEY VALUE words, without those that all runs have.
        words: further arguments of the script.
        folder: of train.py in the checkout.
        before: KEY VALUE words of a run that prepares the others.
        shape: of the random CLIP.
        data: file in configs/datasets.
    """

    checkout: str
    trainer: str
    config: str
    options: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    folder: str = ""
    before: tuple[str, ...] = ()
    shape: ClipShape = WIDE
    data: str = "caltech101.yaml"


def _prec(node: str, *options: str) -> tuple[str, ...]:
    return (f"TRAINER.{node}.PREC", "fp32", *options)


_ATPROMPT = ("TRAINER.ATPROMPT.USE_ATPROMPT", "True", "TRAINER.ATPROMPT.ATT1_TEXT", "color")
_ATPROMPT += ("TRAINER.ATPROMPT.ATT2_TEXT", "shape", "TRAINER.ATPROMPT.ATT_NUM", "2")
RECIPES = [
    Recipe("CoOp", "CoOp", "CoOp/vit_b16.yaml", _prec("COOP")),
    Recipe("CoOp", "CoCoOp", "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml", _prec("COCOOP")),
    Recipe(
        "multimodal-prompt-learning",
        "MaPLe",
        "MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml",
        ("TRAINER.MAPLE.PROMPT_DEPTH", "2"),
    ),
    Recipe("KgCoOp", "KgCoOp", "KgCoOp/vit_b16_ep100_ctxv1.yaml", _prec("COOP"), folder="KgCoOp"),
    Recipe(
        "PromptSRC",
        "PromptSRC",
        "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx.yaml",
        ("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "2", "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", "2"),
    ),
    Recipe("CoPrompt", "CoPrompt", "coprompt.yaml", ("TRAINER.CoPrompt.PROMPT_DEPTH", "2")),
    Recipe("ATPrompt", "CoOp_ATP", "CoOp/vit_b16.yaml", (*_prec("COOP"), *_ATPROMPT)),
    Recipe(
        "ATPrompt",
        "MaPLe_ATP",
        "MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml",
        ("TRAINER.MAPLE.PROMPT_DEPTH", "2", *_ATPROMPT),
    ),
    Recipe("MMRL", "MMRL", "MMRL/vit_b16.yaml", _prec("MMRL", "TRAINER.MMRL.REP_LAYERS", "[1,2]", "TASK", "B2N")),
    Recipe(
        "ProMetaR",
        "ProMetaR",
        "ProMetaR/vit_b16_c2_ep10_batch4_4+4ctx.yaml",
        ("TRAINER.PROMETAR.PROMPT_DEPTH_VISION", "2", "TRAINER.PROMETAR.PROMPT_DEPTH_TEXT", "2"),
    ),
    Recipe(
        "DePT",
        "ExtrasLinearProbeCoOp",
        "ExtrasLinearProbeCoOp/vit_b16_ep10_bs4_lr35.yaml",
        _prec("COOP"),
    ),
    Recipe("DePT", "ExtrasLinearProbeMaPLe", "ExtrasLinearProbeMaPLe/vit_b16_c2_ep10_bs4_lr35.yaml"),
    Recipe("ATPrompt", "CoCoOp_ATP", "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml", (*_prec("COCOOP"), *_ATPROMPT)),
    Recipe("ATPrompt", "CoOp_AnchorOPT", "CoOp/vit_b16.yaml"),
    Recipe("ATPrompt", "CoOp_Pretrain_Anchor", "CoOp/vit_b16.yaml"),
    Recipe("Textual-based_Class-aware_prompt_tuning", "TCP", "TCP/vit_b16_ep100_ctxv1.yaml", _prec("COOP")),
    Recipe("PLOT", "PLOT", "PLOT/rn50.yaml", _prec("PLOT"), folder="plot-coop", shape=RESNET),
    Recipe("PLOT", "PLOTPP", "PLOTPP/vit.yaml", _prec("PLOTPP"), ("--device", "cuda:0"), "plot-pp"),
    Recipe("RPO", "RPO", "RPO/main.yaml", _prec("RPO"), shape=LARGE),
    Recipe(
        "DAPT",
        "DAPT",
        "DAPT/vit_b16.yaml",
        before=("TRAINER.DAPT.PROTOTYPE_GEN", "True", "DATASET.SUBSAMPLE_CLASSES", "all"),
    ),
    Recipe(
        "2024-AAAI-HPT",
        "HPT",
        "HPT/b2n.yaml",
        ("DATASET.GPT_DIR", "data/gpt_data"),
        shape=replace(LARGE, vision_layers=12, transformer_layers=12),
        data="b2n/caltech101.yaml",
    ),
    Recipe("TextRefiner", "TextRefiner", "TextRefiner/vit_b16_ep10_ctxv1.yaml", _prec("COCOOP"), shape=LARGE),
    Recipe(
        "MMRL", "MMRLpp", "MMRLpp/vit_b16.yaml", _prec("MMRLpp", "TRAINER.MMRLpp.REP_LAYERS", "[1,2]", "TASK", "B2N")
    ),
    Recipe("KDPL", "CoOp_KDPL", "CoOp_KDPL/vit_b16.yaml", folder="src"),
    Recipe("BlackVIP", "CoOp", "CoOp/vit_b16.yaml", _prec("COOP")),
    Recipe("NLPrompt", "NLPrompt", "NLPrompt/vit_b16.yaml", _prec("NLPROMPT", "DATASET.num_class", "2")),
]


class Runs:
    """The runs of one recipe."""

    def __init__(self, recipe: Recipe, place: Path, work: Path, data: Path, clip: Path, logs: Path | None) -> None:
        self.recipe, self.place, self.work, self.data, self.clip, self.logs = recipe, place, work, data, clip, logs

    def run(self, trainer: str, output: str, *words: str, launcher: tuple[str, ...] | None = (), model="", engine=""):
        """Return (log, logits) of a run, or (log, None) if it failed; `launcher` None runs the script itself."""
        recipe, logits = self.recipe, self.work / f"{output}.pt"
        program = (
            ["train.py"] if launcher is None else ["-m", "qprompt", "--clip", str(self.clip), *launcher, "train.py"]
        )
        config = recipe.config if (self.place / "configs/trainers" / recipe.config).exists() else self._a_config()
        evaluate = (
            ["--eval-only", "--model-dir", str(self.work / model), "--load-epoch", self._epoch(model)] if model else []
        )
        settings = {
            "DATASET.NUM_SHOTS": "2",
            "INPUT.SIZE": str((recipe.shape.image_resolution,) * 2),
            "DATALOADER.NUM_WORKERS": "0",
            "DATALOADER.TRAIN_X.BATCH_SIZE": "4",
            "DATALOADER.TEST.BATCH_SIZE": "4",
            "OPTIM.MAX_EPOCH": "1",
            "DATASET.SUBSAMPLE_CLASSES": "base",
        }
        arguments = [
            *("--root", f"{self.data}/", "--output-dir", str(self.work / output), "--seed", "1", "--trainer", trainer),
            *("--dataset-config-file", f"configs/datasets/{recipe.data}"),
            *("--config-file", f"configs/trainers/{config}", *recipe.words, *evaluate),
            *(word for pair in settings.items() for word in pair),
            *(*recipe.options, *words),
        ]
        paths = [
            SITE,
            SHIMS,
            self.data.parent / "package",
            *([BUNDLED] if launcher is None else []),
            *_given("PYTHONPATH"),
        ]
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "QPROMPT_ENGINE": engine,
            "CUDA_VISIBLE_DEVICES": "",
            **({"CLIP_ARCHIVE": str(self.clip)} if launcher is None else {}),
        }
        done = subprocess.run(
            [sys.executable, str(RECORDING), str(logits), *program, *arguments],
            cwd=self.place,
            env=variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=1200,
        )
        texts = [file.read_text(encoding="utf-8") for file in (self.work / output).glob("*.txt")]
        log = "\n".join([done.stdout, *texts])  # some scripts print to their log file only
        if self.logs is not None:
            self.logs.mkdir(parents=True, exist_ok=True)
            (self.logs / f"{recipe.checkout}-{trainer}-{output}.txt").write_text(log, encoding="utf-8")
        good = done.returncode == 0 and logits.exists()
        return log, torch.load(logits, weights_only=True) if good else None

    def _epoch(self, model: str) -> str:
        """Return the last epoch with a checkpoint; some scripts set their number of epochs themselves."""
        files = (self.work / model).rglob("model.pth.tar-*")
        return max((file.name.rpartition("-")[2] for file in files), key=int, default="1")

    def _a_config(self) -> str:
        folder = self.place / "configs" / "trainers"
        near = [file.relative_to(folder) for file in folder.rglob("*.yaml") if file.parts[-2] == self.recipe.trainer]
        return str(sorted(near)[0])

    def row(self) -> dict[str, str]:
        """Return the row of the table."""
        x, row = self.recipe.trainer, {}
        precision = () if any(option.endswith(".PREC") for option in self.recipe.options) else ("--fp32",)
        for _ in range(2 if self.recipe.before else 0):  # the first draws the split, or reads it
            self.run(x, "before", *self.recipe.before)
        bare_log, bare = self.run(x, "bare", launcher=None)
        log, launched = self.run(x, "launched")
        if bare is not None and (launched is None or not torch.equal(bare, launched)):
            bare_log, bare = self.run(
                x, "bare_again", launcher=None
            )  # the first run drew the split, the others read it
        if bare is None:
            row["X"] = f"trains (without the launcher: {_last(bare_log)})" if launched is not None else _last(log)
        elif "which its authors changed; the rest is" in log:
            _, launched_bundled = self.run(x, "launched_bundled", engine="bundled")
            same = launched_bundled is not None and torch.equal(bare, launched_bundled)
            row["X"] = f"trains with its own Dassl; {'equal' if same else 'differs'} with the bundled engine alone"
        else:
            row["X"] = "equal" if launched is not None and torch.equal(bare, launched) else _last(log)
        log, quantized = self.run(f"Q{x}", "quantized", launcher=precision)
        if quantized is None:
            return {**row, "QX": _last(log)}
        row["tensors"] = _tensors(log)
        again_log, again = self.run(f"Q{x}", "again", launcher=precision, model="quantized")
        plain_log, plain = self.run(x, "plain", launcher=precision, model="quantized")
        equal = [other is not None and torch.equal(quantized, other) for other in (again, plain)]
        if all(equal):
            row["QX"] = "trains, evaluates as QX and X"
        elif plain is not None and again is not None and torch.equal(plain, again) and self._differs_too(launched):
            row["QX"] = "trains; QX and X evaluate it with equal logits, not those after training, as X does"
        elif "as they were initialized" in again_log:
            row["QX"] = "trains; its --eval-only loads no checkpoint, and a line says so"
        else:
            row["QX"] = f"QX {equal[0]}, X {equal[1]}: {_last(plain_log)}"
        row["unpack"] = self._unpack(precision, quantized if plain is None else plain)
        fast_log, fast = self.run(f"Q{x}", "fast", launcher=(*precision, "--fast"))
        said = re.findall(r"^--fast: (.*)$", fast_log, re.MULTILINE)
        row["--fast"] = _fast(said[0]) if said and fast is not None else _last(fast_log)
        return row

    def _differs_too(self, launched: torch.Tensor | None) -> bool:
        """Return whether plain X itself evaluates its checkpoint with other logits than after training."""
        _, logits = self.run(self.recipe.trainer, "launched_again", model="launched")
        return launched is not None and logits is not None and not torch.equal(launched, logits)

    def _unpack(self, precision: tuple[str, ...], quantized: torch.Tensor) -> str:
        file = self.work / "quantized" / "prompt.qprompt"
        command = [sys.executable, "-m", "qprompt", "unpack", str(file), "--output-dir", str(self.work / "unpacked")]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True)
        if done.returncode:
            return _last(done.stderr)
        log, logits = self.run(self.recipe.trainer, "from_prompt", launcher=precision, model="unpacked")
        if logits is None:
            return _last(log)
        return "equal" if torch.equal(logits, quantized) else f"differs by {(logits - quantized).abs().max():.1e}"


def _given(variable: str) -> list[str]:
    return [part for part in os.environ.get(variable, "").split(os.pathsep) if part]


def _last(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip() and "this may be why" not in line]
    errors = [line for line in lines if re.match(r"(qprompt: |\w*(Error|Exception): )", line)]
    lines = errors or lines
    return lines[-1].strip()[:300] if lines else "no output"


def _fast(said: str) -> str:
    """Return what `--fast` said, in short: the token at which text ends, the difference, and that in noise."""
    found = re.search(r"token (\d+ of \d+),.* differ by (\S+) of the largest, (\S+) times the noise", said)
    return f"token {found[1]}; {found[2]}, {found[3]} noise" if found else said


def _tensors(log: str) -> str:
    lines = re.findall(r"^(\S+) +[\dx ]+? +(\d+ bit|fp16) +[\d,]+ +[\d,]+$", log, re.MULTILINE)
    rows = list(dict(lines).values())
    bits = sorted({row for row in rows if row != "fp16"})
    chosen = sum(row != "fp16" for row in rows)
    return f"{chosen} of {len(rows)}, {'/'.join(bits)}"


def main() -> None:
    """Run the recipes whose checkouts are in the folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names of checkouts or trainers, separated by commas")
    parser.add_argument("--out", type=Path, help="file to write the table to")
    parser.add_argument("--logs", type=Path, help="folder for the output of each run")
    args = parser.parse_args()
    only = {name.lower() for name in args.only.split(",") if name}
    places = {path.name.lower(): path for path in args.folder.iterdir() if path.is_dir()}
    head = ["checkout", "X", "X with and without the launcher", "QX", "quantized", "unpacked for X", "--fast"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    known = {recipe.checkout.lower() for recipe in RECIPES}
    for name in sorted(places.keys() - known):
        print(f"no recipe for {places[name]}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = make_caltech_tree(work / "data", 4, 6, CLASSES)
        (work / "package").mkdir()
        (work / "package" / "qprompt").symlink_to(ROOT / "qprompt")  # without `trainers` and `datasets` of this project
        for number, recipe in enumerate(RECIPES):
            wanted = not only or {recipe.checkout.lower(), recipe.trainer.lower()} & only
            if not wanted or recipe.checkout.lower() not in places:
                continue
            start, own = time.monotonic(), work / str(number)
            own.mkdir()
            clip = save_tiny_clip_archive(own / "clip.pt", recipe.shape)
            row = Runs(recipe, places[recipe.checkout.lower()] / recipe.folder, own, data, clip, args.logs).row()
            cells = [
                recipe.checkout,
                recipe.trainer,
                *(row.get(k, "") for k in ("X", "QX", "tensors", "unpack", "--fast")),
            ]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
            print(lines[-1], f"({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
            if args.out:
                args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
