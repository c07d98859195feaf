#!/usr/bin/env python3
"""Accuracy of zero-shot CLIP, CoOp and QCoOp on base and new classes of many TinyWorld data sets.

Each data set is a new draw of classes, appearances and images. All methods train on the same shots, and are compared in
pairs on the same data set, because results differ more between data sets than between methods. The protocol is CoOp's:
16 shots, batch 32, 200 epochs, training on base classes, test on base and on new classes.

    python benchmarks/tiny_world_study.py                          # draws 0 to 39, 3 seeds: an hour on two cores
    python benchmarks/tiny_world_study.py --first 1000 --draws 4 --seeds 1    # a quick run on the draws for tuning

Methods: zeroshot, coop, qcoop1, qcoop2, qcoop4 (bits), ptq1, ptq2, ptq4 (CoOp quantized after training); settings may
follow, as in qcoop1:kl_threshold=1e-4:min_interval=10:lr=0.01:logit_scale=100.
Results are written after every draw; the same command resumes.
"""

import argparse
import dataclasses
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
from qprompt import engine
from qprompt.backbones import backbone_hash, load_clip
from qprompt.data.items import Item, draw_shots
from qprompt.errors import UserError
from qprompt.io.files import write_json
from qprompt.prompted_clip import encode_text, initial_context, normalize, prompt_layout
from qprompt.quantization import api as fake_quant
from qprompt.quantization.api import finish_, quantize_, refresh_
from qprompt.quantization.config import QuantConfig
from qprompt.world import fewshot

ROOT = Path(__file__).resolve().parent.parent
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)


class World:
    """One draw: image features of training images of the base classes and of test images of base and new classes."""

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
            drawn = np.stack([fewshot.render_image(number, noun, part, i) for i in range(count)])
            images = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
            rows.append(clip_model.encode_image((images - MEAN) / STD))
        return torch.stack(rows)

    def shots(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (C * count, E) and labels of the shots that train.py draws with this seed."""
        classes, per_class = self.train.shape[:2]
        items = [Item(f"{c}/{i}", c, "") for c in range(classes) for i in range(per_class)]
        # train.py draws over all classes in label order, base classes first, so these shots are the same
        drawn = draw_shots(items, count, random.Random(seed))
        index = torch.tensor([[int(p) for p in item.path.split("/")] for item in drawn])
        return self.train[index[:, 0], index[:, 1]], index[:, 0]


@dataclasses.dataclass(frozen=True)
class Method:
    """A method as given on the command line by ``name:key=value:...``."""

    lr: float
    logit_scale: float
    quant: QuantConfig | None

    @classmethod
    def parse(cls, text: str, args) -> "Method":
        name, *pairs = text.split(":")
        given = dict(pair.split("=", 1) for pair in pairs)
        lr, scale = (float(given.pop(key, getattr(args, key))) for key in ("lr", "logit_scale"))
        if name in ("zeroshot", "coop"):
            quant = None
        else:
            known = {"qcoop": "qat", "ptq": "ptq"}
            kind = name.rstrip("0123456789")
            if kind not in known or kind == name:
                raise UserError(f"no method {name!r}: expected zeroshot, coop, qcoop<bits> or ptq<bits>")
            quant = QuantConfig(bits=int(name.removeprefix(kind)), mode=known[kind])
            types = {f.name: type(f.default) for f in dataclasses.fields(QuantConfig)}
            types["normalize"] = {"True": True, "False": False}.__getitem__
            try:
                quant = dataclasses.replace(quant, **{k: types[k](given.pop(k)) for k in list(given) if k in types})
            except (KeyError, ValueError) as error:
                raise UserError(f"{text}: {error}") from None
        if given:
            raise UserError(f"{text}: {name} has no setting {', '.join(given)}")
        return cls(lr, scale, quant)


def test_accuracy(clip_model, world: World, part: str, contexts: torch.Tensor | None, args) -> list[float]:
    """Return percent accuracy on the "base" or "new" test images for each context of (G, n, D); None: zero-shot."""
    if contexts is None:
        layout = prompt_layout(clip_model, world.names[part], "a photo of a", 0)
    else:
        layout = context_layout(clip_model, world.names[part], args)
    features = world.test[part]
    with torch.no_grad():
        classes = encode_text(clip_model, layout, None if contexts is None else contexts[:, None])
        classes = normalize(classes if contexts is not None else classes[None])  # (G, C, E)
        guesses = (normalize(features.flatten(0, 1)) @ classes.transpose(1, 2)).argmax(-1)
    right = guesses == torch.arange(len(features)).repeat_interleave(features.shape[1])
    return (100 * right.double().mean(-1)).tolist()


def context_layout(clip_model, names: list[str], args):
    words = args.ctx_init or " ".join(["X"] * args.n_ctx)
    return prompt_layout(clip_model, names, words, args.n_ctx)


def train(clip_model, world: World, jobs: list[tuple[Method, int]], args):
    """Train a learner per (method, seed) on the base classes; return the learners and their accuracies over epochs.

    Their prompts go through the text encoder as one batch; the trainings are independent otherwise.
    """
    from qprompt.prompts.coop import PromptLearner

    learners, groups, orders, shots = torch.nn.ModuleList(), [], [], []
    for method, seed in jobs:
        torch.manual_seed(seed)
        learner = PromptLearner(initial_context(clip_model, args.n_ctx, args.ctx_init))
        groups.append({"params": list(learner.parameters()), "peak": method.lr, "lr": method.lr})
        if method.quant:
            quantize_(learner, method.quant, ["ctx"])
        learners.append(learner)
        orders.append(torch.Generator().manual_seed(seed))
        shots.append(world.shots(args.shots, seed))
    features = normalize(torch.stack([x for x, _ in shots]))  # (G, N, E)
    labels = torch.stack([y for _, y in shots])  # (G, N)
    scale = torch.tensor([m.logit_scale or float(clip_model.logit_scale.exp()) for m, _ in jobs])[:, None, None]
    layout = context_layout(clip_model, world.names["base"], args)
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, weight_decay=5e-4)
    row = torch.arange(len(jobs))[:, None]
    batches = max(1, labels.shape[1] // args.batch)
    curve = {}
    for epoch in range(args.epochs):
        for group in optimizer.param_groups:  # CoOp's schedule: cosine, with 1e-5 in the first epoch
            group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * epoch / args.epochs)) if epoch else 1e-5
        order = torch.stack([torch.randperm(labels.shape[1], generator=g) for g in orders])
        for chosen in order[:, : batches * args.batch].split(args.batch, dim=1):
            refresh_(learners)
            contexts = torch.stack([learner.ctx for learner in learners])  # (G, n, D)
            classes = normalize(encode_text(clip_model, layout, contexts[:, None]))  # (G, C, E)
            logits = scale * features[row, chosen] @ classes.transpose(1, 2)  # (G, B, C)
            loss = F.cross_entropy(logits.flatten(0, 1), labels[row, chosen].flatten(), reduction="sum") / args.batch
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if args.curve and (epoch + 1) % args.curve == 0:
            now = torch.stack([learner.ctx.detach() for learner in learners])
            curve[epoch + 1] = [test_accuracy(clip_model, world, part, now, args) for part in ("base", "new")]
    finish_(learners)
    return learners, curve


def one_draw(number: int, args) -> list[dict]:
    """Return the results of all methods and seeds on one data set."""
    torch.set_num_threads(1)
    engine.activate()
    clip_model = load_clip("tiny", args.weights)
    world = World(clip_model, number)
    methods = {text: Method.parse(text, args) for text in args.methods}
    learned = [(text, seed) for text in methods if text != "zeroshot" for seed in range(1, args.seeds + 1)]
    rows = []
    if "zeroshot" in methods:
        base, new = (test_accuracy(clip_model, world, part, None, args)[0] for part in ("base", "new"))
        rows.append({"draw": number, "method": "zeroshot", "seed": 0, "base": base, "new": new})
    if learned:
        learners, curve = train(clip_model, world, [(methods[text], seed) for text, seed in learned], args)
        contexts = torch.stack([learner.ctx.detach() for learner in learners])
        base, new = (test_accuracy(clip_model, world, part, contexts, args) for part in ("base", "new"))
        for i, (text, seed) in enumerate(learned):
            row = {"draw": number, "method": text, "seed": seed, "base": base[i], "new": new[i]}
            row["fits"] = sum(fake.fits for fake, _ in fake_quant.quantized_parameters(learners[i]).values())
            if curve:
                row["curve"] = {epoch: [part[i] for part in parts] for epoch, parts in curve.items()}
            rows.append(row)
    return rows


def harmonic(base, new):
    return 2 * base * new / (base + new)


def per_draw(rows: list[dict], method: str) -> dict[str, np.ndarray]:
    """base, new and H of each draw (mean over seeds, H of the means), in the order of the draws."""
    own = [row for row in rows if row["method"] == method]
    draws = sorted({row["draw"] for row in own})
    mean = {
        part: np.array([np.mean([r[part] for r in own if r["draw"] == d]) for d in draws]) for part in ("base", "new")
    }
    return {**mean, "H": harmonic(mean["base"], mean["new"])}


def summary(rows: list[dict], methods: list[str]) -> dict:
    """Return means over draws, and paired differences to zero-shot and to CoOp with their statistical tests."""
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
    add("--lr", type=float, default=0.01, help="default: %(default)s (CoOp has 0.002 for widths of 512)")
    add("--n-ctx", type=int, default=4, help="context vectors (default: %(default)s)")
    add("--ctx-init", default="a photo of a", help="'' starts from noise (default: %(default)s)")
    add("--logit-scale", type=float, default=100.0, help="0: the model's own (default: %(default)s)")
    add("--curve", type=int, default=0, metavar="N", help="also test every N epochs")
    add("--weights", default="", help="a CLIP file instead of the embedded one")
    add("--jobs", type=int, default=1, help="processes, one core each (default: %(default)s)")
    add("--out", type=Path, default=ROOT / "benchmarks/results/tiny_world_study.json", help="default: %(default)s")
    args = parser.parse_args()

    for text in args.methods:
        try:
            Method.parse(text, args)
        except UserError as error:
            parser.error(str(error))
    unrecorded = ("draws", "first", "jobs", "out")
    settings = {k: v for k, v in vars(args).items() if k not in unrecorded}
    settings["backbone"] = backbone_hash(load_clip("tiny", args.weights))
    rows: list[dict] = []
    if args.out.exists():
        before = json.loads(args.out.read_text())
        if before["settings"] != settings:
            parser.error(
                f"{args.out} contains results of other settings: choose another file with --out, or remove it."
            )
        rows = before["rows"]
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
