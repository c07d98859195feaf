#!/usr/bin/env python3
"""Does quantizing the prompt during training help new classes? Zero-shot, CoOp and QCoOp over many fresh TinyWorlds.

Every data set is drawn anew (classes, looks and pictures), every method sees the same shots, and methods are
compared in pairs on the same data set: one data set alone shows whatever one likes. CoOp's protocol: 16 shots,
batch 32, 200 epochs, training on base classes, test on base and on new ones.

    python benchmarks/tiny_world_study.py                          # draws 0..39, 3 seeds: about an hour on one core
    python benchmarks/tiny_world_study.py --first 1000 --draws 4 --seeds 1    # a look, on draws kept for tuning

Methods: zeroshot, coop, qcoop1, qcoop2, qcoop4 (bits), ptq1, ptq2, ptq4 (CoOp quantized after training).
Results are written after every draw; the same command goes on where it was.
"""

import argparse
import json
import math
import platform
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from qprompt import engine, fake_quant
from qprompt.backbones import backbone_hash, load_clip
from qprompt.data.items import Item, draw_shots
from qprompt.fake_quant import QuantConfig, finish_, quantize_, refresh_
from qprompt.files import write_json
from qprompt.prompted_clip import PromptedCLIP, initial_context, prompt_layout
from qprompt.world import fewshot

ROOT = Path(__file__).resolve().parent.parent
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)


class World:
    """One draw: image features of the base classes' training pictures and of both halves' test pictures."""

    def __init__(self, clip_model, number: int) -> None:
        nouns = fewshot.classes_of(number)
        half = math.ceil(len(nouns) / 2)
        self.names = {"base": nouns[:half], "new": nouns[half:]}
        self.names = {part: [fewshot.class_name(n) for n in chosen] for part, chosen in self.names.items()}
        self.train = self._features(clip_model, number, "train", nouns[:half])  # (C, n, E)
        self.test = {
            "base": self._features(clip_model, number, "test", nouns[:half]),
            "new": self._features(clip_model, number, "test", nouns[half:]),
        }

    @staticmethod
    @torch.no_grad()
    def _features(clip_model, number: int, part: str, nouns: list[int]) -> torch.Tensor:
        count = fewshot.COUNTS[part]
        rows = []
        for noun in nouns:
            drawn = np.stack([fewshot.picture_of(number, noun, part, i) for i in range(count)])
            images = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
            rows.append(clip_model.encode_image((images - MEAN) / STD))
        return torch.stack(rows)

    def shots(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (C * count, E) and labels: the shots that train.py draws with that seed."""
        classes, per_class = self.train.shape[:2]
        items = [Item(f"{c}/{i}", c, "") for c in range(classes) for i in range(per_class)]
        # train.py draws over all classes in label order, base classes first: the same shots for them
        drawn = draw_shots(items, count, random.Random(seed))
        index = torch.tensor([[int(p) for p in item.path.split("/")] for item in drawn])
        return self.train[index[:, 0], index[:, 1]], index[:, 0]


def accuracy(clip_model, world: World, part: str, learner, args) -> float:
    """Percent of the test pictures of a half; `learner` None is zero-shot."""
    model = PromptedCLIP(clip_model, layout(clip_model, world.names[part], args, learner), learner, args.logit_scale)
    features = world.test[part]
    with torch.no_grad():
        guesses = model(features.flatten(0, 1)).argmax(-1)
    right = guesses == torch.arange(len(features)).repeat_interleave(features.shape[1])
    return 100 * right.double().mean().item()


def layout(clip_model, names, args, learner):
    if learner is None:
        return prompt_layout(clip_model, names, "a photo of a", 0)
    words = args.ctx_init or " ".join(["X"] * args.n_ctx)
    return prompt_layout(clip_model, names, words, args.n_ctx)


def learning_rate(epoch: int, args) -> float:
    """CoOp's schedule: cosine over the epochs, the first one at 1e-5."""
    return 1e-5 if epoch == 0 else args.lr * 0.5 * (1 + math.cos(math.pi * epoch / args.epochs))


def train(clip_model, world: World, seed: int, quant: QuantConfig | None, args):
    """A trained prompt learner on the base classes, quantized as `quant` says; with it accuracies over epochs."""
    from trainers.coop import PromptLearner

    torch.manual_seed(seed)
    learner = PromptLearner(initial_context(clip_model, args.n_ctx, args.ctx_init))
    model = PromptedCLIP(clip_model, layout(clip_model, world.names["base"], args, learner), learner, args.logit_scale)
    if quant:
        quantize_(learner, quant, ["ctx"])
    optimizer = torch.optim.SGD(learner.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
    features, labels = world.shots(args.shots, seed)
    batches = max(1, len(labels) // args.batch)
    curve = {}
    for epoch in range(args.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, args)
        for chosen in torch.randperm(len(labels))[: batches * args.batch].split(args.batch):
            if quant:
                refresh_(learner)
            loss = F.cross_entropy(model(features[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if args.curve and (epoch + 1) % args.curve == 0:
            curve[epoch + 1] = [accuracy(clip_model, world, part, learner, args) for part in ("base", "new")]
    finish_(learner)
    return learner, curve


def quantization(method: str, args) -> QuantConfig | None:
    if method == "coop":
        return None
    mode = "ptq" if method.startswith("ptq") else "qat"
    bits = int(method.removeprefix("ptq").removeprefix("qcoop"))
    return QuantConfig(bits=bits, mode=mode, min_interval=args.min_interval, kl_threshold=args.kl_threshold)


def one_draw(number: int, args) -> list[dict]:
    """Results of all methods and seeds on one data set."""
    torch.set_num_threads(1)
    engine.activate()
    clip_model = load_clip("tiny", args.weights)
    world = World(clip_model, number)
    rows = []
    for method in args.methods:
        for seed in [0] if method == "zeroshot" else range(1, args.seeds + 1):
            started = time.monotonic()
            learner, curve, fits = None, {}, 0
            if method != "zeroshot":
                learner, curve = train(clip_model, world, seed, quantization(method, args), args)
                fits = sum(fake.fits for fake, _ in fake_quant.quantized_parameters(learner).values())
            base, new = (accuracy(clip_model, world, part, learner, args) for part in ("base", "new"))
            row = {"draw": number, "method": method, "seed": seed, "base": base, "new": new, "fits": fits}
            rows.append({**row, "seconds": round(time.monotonic() - started, 2), **({"curve": curve} if curve else {})})
    return rows


def harmonic(base, new):
    return 2 * base * new / (base + new)


def per_draw(rows: list[dict], method: str) -> dict[str, np.ndarray]:
    """base, new and H of each draw (mean over seeds, H of the means), in the order of the draws."""
    mine = [row for row in rows if row["method"] == method]
    draws = sorted({row["draw"] for row in mine})
    mean = {
        part: np.array([np.mean([r[part] for r in mine if r["draw"] == d]) for d in draws]) for part in ("base", "new")
    }
    return {**mean, "H": harmonic(mean["base"], mean["new"])}


def summary(rows: list[dict], methods: list[str]) -> dict:
    """Means over draws, and paired differences to zero-shot and to CoOp with their tests."""
    table = {method: per_draw(rows, method) for method in methods}
    out: dict = {"table": {}, "paired": []}
    for method, columns in table.items():
        out["table"][method] = {
            k: [round(v.mean(), 2), round(v.std(ddof=1) if len(v) > 1 else 0.0, 2)] for k, v in columns.items()
        }
    for other in ("zeroshot", "coop"):
        for method in methods:
            if other not in table or method in ("zeroshot", other) or len(table[method]["H"]) < 3:
                continue
            for k in ("base", "new", "H"):
                d = table[method][k] - table[other][k]
                constant = np.ptp(d) == 0
                out["paired"].append({
                    "method": method, "against": other, "of": k, "draws": len(d), "mean": round(d.mean(), 3),
                    "wins": int((d > 0).sum()), "losses": int((d < 0).sum()),
                    "t_test_p": 1.0 if constant else float(stats.ttest_1samp(d, 0).pvalue),
                    "wilcoxon_p": 1.0 if constant else float(stats.wilcoxon(d).pvalue),
                })  # fmt: skip
    return out


def print_summary(result: dict) -> None:
    print(f"\n{'':10} {'base':>14} {'new':>14} {'H':>14}   mean and standard deviation over draws")
    for method, row in result["table"].items():
        print(f"{method:10} " + " ".join(f"{mean:7.2f} ±{sd:5.2f}" for mean, sd in row.values()))
    print("\npaired over draws:")
    for p in result["paired"]:
        print(
            f"{p['method']:8} against {p['against']:8} {p['of']:4} {p['mean']:+6.2f}  "
            f"{p['wins']} wins, {p['losses']} losses of {p['draws']}  "
            f"t-test p={p['t_test_p']:.2g}  Wilcoxon p={p['wilcoxon_p']:.2g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--draws", type=int, default=40, help="number of data sets (default: %(default)s)")
    add("--first", type=int, default=0, help="number of the first; 1000 and up are for tuning (default: %(default)s)")
    add("--seeds", type=int, default=3, help="few-shot draws and trainings on each (default: %(default)s)")
    add(
        "--methods",
        default="zeroshot,coop,qcoop1",
        type=lambda s: s.split(","),
        help="comma-separated (default: zeroshot,coop,qcoop1)",
    )
    add("--epochs", type=int, default=200, help="default: %(default)s, CoOp's")
    add("--shots", type=int, default=16, help="default: %(default)s")
    add("--batch", type=int, default=32, help="default: %(default)s")
    add("--lr", type=float, default=0.002, help="default: %(default)s")
    add("--n-ctx", type=int, default=4, help="context vectors (default: %(default)s)")
    add("--ctx-init", default="a photo of a", help="'' starts from noise (default: %(default)s)")
    add("--logit-scale", type=float, default=100.0, help="0: the model's own (default: %(default)s)")
    add("--kl-threshold", type=float, default=QuantConfig.kl_threshold, help="T_KL (default: %(default)s)")
    add("--min-interval", type=int, default=QuantConfig.min_interval, help="t (default: %(default)s)")
    add("--curve", type=int, default=0, metavar="N", help="also test every N epochs")
    add("--weights", default="", help="a CLIP file instead of the embedded one")
    add("--jobs", type=int, default=1, help="processes, one core each (default: %(default)s)")
    add("--out", type=Path, default=ROOT / "benchmarks/results/tiny_world_study.json", help="default: %(default)s")
    args = parser.parse_args()

    unrecorded = ("draws", "first", "jobs", "out")
    settings = {k: v for k, v in vars(args).items() if k not in unrecorded}
    settings["backbone"] = backbone_hash(load_clip("tiny", args.weights))
    rows: list[dict] = []
    if args.out.exists():
        kept = json.loads(args.out.read_text())
        if kept["settings"] != settings:
            parser.error(f"{args.out} holds results of other settings: name another file with --out, or remove it.")
        rows = kept["rows"]
    numbers = [n for n in range(args.first, args.first + args.draws) if n not in {row["draw"] for row in rows}]
    print(f"{len(numbers)} data sets to do, {len({row['draw'] for row in rows})} done before")
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    started = time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:
        for done, new_rows in enumerate(pool.map(one_draw, numbers, [args] * len(numbers)), 1):
            rows = sorted(rows + new_rows, key=lambda r: (r["draw"], args.methods.index(r["method"]), r["seed"]))
            result = {"settings": settings, "machine": machine, **summary(rows, args.methods), "rows": rows}
            write_json(args.out, result)
            means = {m: per_draw(new_rows, m) for m in args.methods}
            line = "  ".join(f"{m} {v['base'][0]:.1f}/{v['new'][0]:.1f}" for m, v in means.items())
            left = (time.monotonic() - started) / done * (len(numbers) - done)
            print(f"draw {new_rows[0]['draw']}: {line}   ({left / 60:.0f} min left)", flush=True)
    if rows:
        print_summary(summary(rows, args.methods))
        print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
