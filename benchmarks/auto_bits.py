#!/usr/bin/env python3
"""Choose the bits b from training data: train on two thirds of the base classes, test on the shots of the others.

    python benchmarks/auto_bits.py                     # draws 0 to 9: about a minute per draw on one core
    python benchmarks/auto_bits.py --draws 20

For every draw of the embedded world and every b of --bits there are three trainings: two that each leave out a third
of the base classes, and one on all base classes. The first two choose b: by the best mean accuracy on the classes left
out ("held out"), or by the best mean H of the two groups of classes ("H"). The test accuracy of the third judges the
choice.
Loop and schedule are those of tiny_world_study.py. Results are written after every draw; the same command resumes.
"""

import argparse
import json
from types import SimpleNamespace

import numpy as np
import torch
from measure import RESULTS, machine
from scipy import stats
from tiny_world_study import Method, World, harmonic, test_accuracy, train

from qprompt import engine
from qprompt.backbones import load_clip
from qprompt.io.files import write_json

SETTINGS = {
    "lr": 0.01, "logit_scale": 100.0, "n_ctx": 4, "ctx_init": "a photo of a", "shots": 16, "batch": 32, "epochs": 200
}  # fmt: skip


def accuracies(clip_model, world, bits, args):
    """Train on `world` with each bit width; return (base, new) accuracy of each."""
    jobs = [(Method.parse(f"qcoop{b}", args), 1) for b in bits]
    learners, _ = train(clip_model, world, jobs, args)
    contexts = torch.stack([learner.ctx.detach() for learner in learners])
    return list(zip(*(test_accuracy(clip_model, world, part, contexts, args) for part in ("base", "new")), strict=True))


def without(world, held):
    """Return the training data of `world` as a world whose new classes are those of `held`."""
    features, labels = world.shots(SETTINGS["shots"], 1)
    names = world.names["base"]
    parts = {"base": [c for c in range(len(names)) if c not in held], "new": held}
    test = {part: torch.stack([features[labels == c] for c in classes]) for part, classes in parts.items()}
    shots = test["base"].flatten(0, 1), torch.arange(len(parts["base"])).repeat_interleave(SETTINGS["shots"])
    return SimpleNamespace(
        names={part: [names[c] for c in classes] for part, classes in parts.items()},
        test=test,
        shots=lambda count, seed: shots,
    )


def one_draw(clip_model, number, bits, args):
    world = World(clip_model, number)
    count = len(world.names["base"])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(number)).tolist()
    rows = []
    for fold in range(2):
        held = order[fold * count // 3 : (fold + 1) * count // 3]
        rows += [("fold", *pair) for pair in accuracies(clip_model, without(world, held), bits, args)]
    rows += [("all", *pair) for pair in accuracies(clip_model, world, bits, args)]
    keys = ("draw", "bits", "trained_on", "base", "new")
    return [dict(zip(keys, (number, b, *row), strict=True)) for b, row in zip(bits * 3, rows, strict=True)]


def judge(rows, bits):
    """Print for each criterion what it chose, and the H of its choices minus that of each fixed b."""
    draws = sorted({row["draw"] for row in rows})

    def grid(trained_on, score):
        """Return the means of a score, (draws, bits)."""
        means = []
        for draw in draws:
            own = [r for r in rows if r["draw"] == draw and r["trained_on"] == trained_on]
            means.append([np.mean([score(r["base"], r["new"]) for r in own if r["bits"] == b]) for b in bits])
        return np.array(means)

    final = grid("all", harmonic)
    print(f"{len(draws)} draws; H of each b: {dict(zip(bits, final.mean(0).round(1).tolist(), strict=True))}")
    print(f"with the best b of every draw: H {final.max(1).mean():.1f}")
    for criterion, score in {"held out": lambda base, new: new, "H": harmonic}.items():
        chosen = grid("fold", score).argmax(1)
        h = final[np.arange(len(draws)), chosen]
        counts = {b: int((chosen == i).sum()) for i, b in enumerate(bits)}
        hits = int((final.argmax(1) == chosen).sum())
        print(f"{criterion}: chose {counts}, the best b in {hits} of {len(draws)} draws; H {h.mean():.1f}")
        for i, b in enumerate(bits):
            difference = h - final[:, i]
            interval = stats.t.ppf(0.975, len(draws) - 1) * difference.std(ddof=1) / len(draws) ** 0.5
            print(f"  minus always {b}: {difference.mean():+.1f} +- {interval:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    engine.activate()
    torch.set_num_threads(1)
    clip_model, path = load_clip("tiny"), RESULTS / "auto_bits.json"
    settings = {**SETTINGS, "bits": args.bits}
    rows = []
    if path.exists():
        before = json.loads(path.read_text())
        if before["settings"] != settings:
            parser.error(f"{path} contains results of other settings: move it away")
        rows = before["rows"]
    for number in sorted(set(range(args.draws)) - {row["draw"] for row in rows}):
        rows += one_draw(clip_model, number, args.bits, SimpleNamespace(**SETTINGS, curve=0))
        write_json(path, {"settings": settings, "machine": machine(), "rows": rows})
        print(f"draw {number} done", flush=True)
    judge(rows, args.bits)


if __name__ == "__main__":
    main()
