"""Takes the place of train.py in the tests of sweeps and scripts: same command line, same record, no training.

FAKE_TRAIN selects another behavior, as ``word:part of the output folder`` pairs separated by spaces: ``fail`` (exit
code 1), ``mistake`` (exit code 2), ``crash`` (kill itself), ``once`` (exit code 1 the first time), ``hang`` (the first
time, write the process id to the pipe FAKE_FIFO and wait for a signal).
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import yaml

parser = argparse.ArgumentParser()
for flag in ("root", "output-dir", "seed", "trainer", "dataset-config-file", "config-file", "model-dir", "load-epoch"):
    parser.add_argument(f"--{flag}", default="")
parser.add_argument("--eval-only", action="store_true")
parser.add_argument("--skip-finished", action="store_true")
parser.add_argument("opts", nargs=argparse.REMAINDER)
args = parser.parse_args()

config = {"OPTIM": {"MAX_EPOCH": 10}}


def merge(into, data):
    for key, value in data.items():
        if isinstance(value, dict):
            merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


for path in (args.dataset_config_file, args.config_file):
    merge(config, yaml.safe_load(Path(path).read_text()) or {})
flags = {"SEED": int(args.seed), "TRAINER.NAME": args.trainer, "OUTPUT_DIR": args.output_dir}
options = {k: yaml.safe_load(v) if v else v for k, v in zip(args.opts[::2], args.opts[1::2], strict=True)}
changed = {}
for key, value in {**flags, **options}.items():
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    node[name] = changed[key] = value

folder = Path(args.output_dir)
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "starts.txt", "a") as file:
    file.write(json.dumps({k: os.environ.get(k) for k in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}) + "\n")
print(f"fake run in {folder}", flush=True)
for rule in os.environ.get("FAKE_TRAIN", "").split():
    word, _, part = rule.partition(":")
    if part not in str(folder):
        continue
    first = len((folder / "starts.txt").read_text().splitlines()) == 1
    if word == "hang" and first:
        with open(os.environ["FAKE_FIFO"], "w") as fifo:  # the test waits for this line
            fifo.write(f"{os.getpid()}\n")
        while True:
            signal.pause()
    if word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "mistake":
        sys.exit(2)
    if word == "fail" or (word == "once" and first):
        print("RuntimeError: it broke here", file=sys.stderr)
        sys.exit(1)
if "train_base" in args.model_dir and not (Path(args.model_dir) / "metrics.json").exists():
    sys.exit(f"{args.model_dir} is not finished")
epoch = args.load_epoch and (int(args.load_epoch) if args.load_epoch.isdigit() else args.load_epoch)
record = {
    "schema": 1,
    "mode": "eval" if args.eval_only else "train",
    "trainer": args.trainer,
    "dataset": config["DATASET"]["NAME"],
    "seed": int(args.seed),
    "shots": config["DATASET"].get("NUM_SHOTS", -1),
    "classes": config["DATASET"].get("SUBSAMPLE_CLASSES", "all"),
    "results": {"accuracy": 50.0},
    "time_s": 1.0,
    "changed": changed,
    "config": config,
    **({"model_dir": args.model_dir, "load_epoch": epoch} if args.model_dir else {}),
}
(folder / "metrics.json").write_text(json.dumps(record))
