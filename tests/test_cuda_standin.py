"""All trainers on a simulated GPU, in every precision (the package cuda_standin says what that shows and what not)."""

import csv
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trees
from cuda_standin import library

from qprompt.backbones.random_weights import ClipShape, random_state_dict, write_clip
from qprompt.sweep import process

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not() or "it can run")
DEPTHS = {"MAPLE": ["PROMPT_DEPTH"], "IVLP": ["PROMPT_DEPTH_TEXT", "PROMPT_DEPTH_VISION"]}
NODES = {"CoOp": "COOP", "CoCoOp": "COCOOP", "MaPLe": "MAPLE", "IVLP": "IVLP", "VPT": "VPT"}
TRAINERS = {name: node for method, node in NODES.items() for name in (method, f"Q{method}")} | {"NoisyCoOp": "COOP"}
DEVICES = ("cuda", "cpu")
PRECISIONS = ("fp32", "fp16", "amp", "bf16")
# By default each trainer runs in fp16, which published configs ask for, and the quantized ones in every precision.
SLOW = [(t, p) for t in TRAINERS for p in PRECISIONS if not t.startswith("Q") and p != "fp16"]
FAST = [(t, p) for t in TRAINERS for p in PRECISIONS if (t, p) not in SLOW]
EACH = pytest.mark.parametrize(
    "trainer, precision", [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]
)
# The fused attention of the stand-in computes in fp32, that of the CPU in the given precision.
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "amp": 5e-3, "bf16": 4e-2}
RESNET = ClipShape(32, 64, (1, 1, 1, 1), 16, None, 64, 1, 2, context_length=77, vocab_size=49408)
VIEWS = ("INPUT.TRANSFORMS", "['random_resized_crop','random_flip','normalize']")
OTHER_SETTINGS = {
    "a fit every step": ("QMaPLe", "TRAINER.QUANT.POLICY", "every", "TRAINER.QUANT.BITS", "4"),
    "learned step sizes": ("QCoOp", "TRAINER.QUANT.METHOD", "lsq", "TRAINER.QUANT.BITS", "2"),
    "codebooks per row": ("QCoOp", "TRAINER.QUANT.GRANULARITY", "row"),
    "contexts per class": ("QCoOp", "TRAINER.COOP.CSC", "True"),
    "class name in the middle": ("QCoOp", "TRAINER.COOP.CLASS_TOKEN_POSITION", "middle"),
    "adam": ("QCoOp", "OPTIM.NAME", "adam"),
    "text in parts": ("QCoCoOp", "TEXT_MEMORY_MB", "1"),
    "three views": ("QCoOp", "FEATURE_CACHE", "3 views", *VIEWS),
    "best epoch": ("QCoOp", "TEST.FINAL_MODEL", "best_val"),
}


def train_argv(trainer, precision, folder, output, clip_file, *options, epochs=1):
    """Return the command of a run of 3 steps an epoch on 5 classes, 4 shots."""
    node = TRAINERS[trainer]
    argv = ["train.py", "--root", str(folder / "data"), "--output-dir", str(folder / output), "--trainer", trainer]
    argv += ["--seed", "0", "--dataset-config-file", "configs/datasets/eurosat.yaml", "--backbone", "ViT-B/16"]
    argv += ["MODEL.BACKBONE.PATH", str(clip_file), "MODEL.LOGIT_SCALE", "1", f"TRAINER.{node}.PREC", precision]
    argv += ["INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS", "['normalize']", "DATASET.SUBSAMPLE_CLASSES", "base"]
    argv += ["DATASET.NUM_SHOTS", "4", "DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "6"]
    argv += ["OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", str(epochs)]
    argv += [word for key in DEPTHS.get(node, []) for word in (f"TRAINER.{node}.{key}", "2")]
    return [*argv, *options]


def execute(files, runs, sm=90, folder=library.SOURCE.parents[2]):
    """Execute commands in one process with the stand-in, in `folder`; return their reports by name."""
    path = files / "runs.json"
    path.write_text(json.dumps(runs))
    command = [sys.executable, "-m", "cuda_standin", str(path)]
    done = subprocess.run(command, env=library.environment(files, sm), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {each["name"]: each for each in json.loads(path.with_name("runs.json.report").read_text())}


@pytest.fixture(scope="session")
def reports(tmp_path_factory, clip_file):
    """Report of a command by its name; a group of commands runs when a report of it is asked for.

    With several workers of pytest, the first that asks runs the group.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder) / "cuda_standin"
    resnet_file = write_clip(tmp_path_factory.mktemp("resnet") / "weights.pt", random_state_dict(RESNET), RESNET)
    groups = {"fast": [*matrix(FAST, folder, clip_file), *others(folder, clip_file, resnet_file)]}
    groups["slow"] = matrix(SLOW, folder, clip_file)
    read: dict[str, dict] = {}

    class Reports:
        def __getitem__(self, name):
            group = next(group for group, runs in groups.items() if name in [each["name"] for each in runs])
            if group not in read:
                read[group] = reports_of(folder / group, folder / "data", groups[group])
            return read[group][name]

    return Reports()


def reports_of(folder, data, runs):
    folder.mkdir(exist_ok=True, parents=True)
    with open(data.with_name("lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not data.exists():
            trees.build(data, "EuroSAT")
            for number, picture in enumerate(sorted(data.glob("eurosat/**/*.jpg"))):
                picture.write_bytes(trees.jpeg(number))
        path = folder / "reports.json"
        if not path.exists():
            path.write_text(json.dumps(execute(folder, runs)))
    return json.loads(path.read_text())


def matrix(pairs, folder, clip_file):
    runs = []
    for trainer, precision in pairs:
        for device in DEVICES:
            name = f"{trainer} {precision} {device}"
            argv = train_argv(trainer, precision, folder, name.replace(" ", "-"), clip_file)
            runs.append({"name": name, "argv": argv, "device": device})
    return runs


def others(folder, clip_file, resnet_file):
    runs = []
    for precision in PRECISIONS:
        name = f"spoiled {precision}"
        argv = train_argv("QCoOp", precision, folder, name.replace(" ", "-"), clip_file, epochs=30)
        runs.append({"name": name, "argv": argv, "device": "cuda", "spoil_gradients": True})
    for trainer in ("QCoOp", "QMaPLe"):
        gate = ["TRAINER.QUANT.MIN_INTERVAL", "1", "TRAINER.QUANT.KL_THRESHOLD", "100", "TRAINER.QUANT.BITS", "4"]
        gate += ["MODEL.LOGIT_SCALE", "10"]
        for precision in ("fp32", "fp16"):
            name = f"{trainer} gated {precision}"
            argv = train_argv(trainer, precision, folder, name.replace(" ", "-"), clip_file, *gate, epochs=2)
            runs.append({"name": name, "argv": argv, "device": "cuda"})
    for device in DEVICES:  # upstream's fp16, with random views, on switches that repeat bits
        name = f"upstream {device}"
        argv = train_argv("QMaPLe", "fp16-upstream", folder, name.replace(" ", "-"), clip_file, *VIEWS)
        runs.append({"name": name, "argv": [*argv[:1], "--deterministic", *argv[1:]], "device": device})
    for name, (trainer, *options) in OTHER_SETTINGS.items():
        argv = train_argv(trainer, "fp16", folder, name.replace(" ", "-"), clip_file, *options)
        runs.append({"name": name, "argv": argv, "device": "cuda"})
    for device in DEVICES:
        argv = train_argv("QCoOp", "fp16", folder, f"resnet-{device}", resnet_file, "INPUT.SIZE", "(64, 64)")
        runs.append({"name": f"resnet {device}", "argv": argv, "device": device})
    few = train_argv("QCoOp", "fp16", folder, "few", clip_file, "MODEL.LOGIT_SCALE", "1000")
    runs += [{"name": name, "argv": few, "device": "cuda"} for name in ("few steps", "few steps again")]
    argv = train_argv("QCoOp", "fp16", folder, "graph", clip_file, "CUDA_GRAPH", "True")
    runs.append({"name": "graph", "argv": argv, "device": "cuda"})
    trained = folder / "QCoOp-fp16-cuda"
    for device in ("cuda", "cpu"):
        argv = train_argv("QCoOp", "fp32", folder, f"evaluated-{device}", clip_file)
        argv[1:1] = ["--eval-only", "--model-dir", str(trained)]
        runs.append({"name": f"evaluated {device}", "argv": argv, "device": device})
        prompt, pictures = trained / "prompt_learner" / "prompt.qprompt", folder / "data" / "eurosat"
        argv = ["qprompt", "predict", str(prompt), str(pictures), "--device", device, "--csv"]
        argv += ["--backbone-path", str(clip_file)]
        runs.append({"name": f"predicted {device}", "argv": argv, "device": device})
    return runs


def waits(segments):
    """Return the number of host synchronizations of each segment, and where they are."""
    return [(sum(each["synchronizations"].values()), each["synchronizations"]) for each in segments]


@EACH
def test_a_trainer_computes_what_it_computes_on_a_cpu(reports, trainer, precision):
    on_gpu, on_cpu = (reports[f"{trainer} {precision} {device}"] for device in ("cuda", "cpu"))
    assert (on_gpu["code"], on_cpu["code"]) == (0, 0), on_gpu["err"] + on_cpu["err"]
    assert len(on_gpu["losses"]) == 3
    assert on_gpu["losses"] == pytest.approx(on_cpu["losses"], rel=TOLERANCE[precision])


@EACH
def test_the_host_waits_once_a_step_and_once_an_evaluated_batch(reports, trainer, precision):
    segments = reports[f"{trainer} {precision} cuda"]["segments"]
    assert {each["label"] for each in segments} == {"step", "evaluated batch"}
    for number, places in waits(segments):
        assert number <= 1, places


@pytest.mark.parametrize("trainer", ["QCoOp", "QMaPLe"])
def test_the_divergence_that_decides_about_a_fit_costs_no_wait_of_its_own(reports, trainer):
    steps = [each for each in reports[f"{trainer} gated fp32"]["segments"] if each["label"] == "step"]
    assert len(steps) == 4
    for number, places in waits(steps):
        assert number <= 1, places


@pytest.mark.parametrize("trainer", ["QCoOp", "QMaPLe"])
def test_what_was_measured_before_a_step_was_taken_back_is_not_used(reports, trainer):
    """The first steps in fp16 overflow here until the scaler has found a scale."""
    report = reports[f"{trainer} gated fp16"]
    assert report["code"] == 0, report["err"]
    assert "steps were skipped" in report["out"] + report["err"]


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_other_settings_run_on_the_device(reports, name):
    report = reports[name]
    assert report["code"] == 0, report["err"]
    for number, places in waits(report["segments"]):
        assert number <= (2 if name == "a fit every step" else 1), places


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nan_gradients_end_a_run(reports, precision):
    report = reports[f"spoiled {precision}"]
    assert report["code"] == 2
    assert "prompt_learner" in report["err"] and "NaN" in report["err"]
    assert len(report["losses"]) < 30  # of 60


def test_a_run_whose_steps_were_all_skipped_does_not_end_well_when_it_is_repeated(reports):
    for name in ("few steps", "few steps again"):  # the second is resumed after the last epoch
        assert reports[name]["code"] == 2
        assert "nothing was learned" in reports[name]["err"] and "type TRAINER.COOP.PREC fp32" in reports[name]["err"]
    assert len(reports["few steps"]["losses"]) == 3 and not reports["few steps again"]["losses"]


def test_a_graph_that_cannot_be_captured_is_an_error_of_one_line(reports):
    assert reports["graph"]["code"] == 2 and "type CUDA_GRAPH False." in reports["graph"]["err"]


def test_a_resnet_computes_what_it_computes_on_a_cpu(reports):
    on_gpu, on_cpu = (reports[f"resnet {device}"] for device in DEVICES)
    assert (on_gpu["code"], on_cpu["code"]) == (0, 0), on_gpu["err"] + on_cpu["err"]
    assert on_gpu["losses"] == pytest.approx(on_cpu["losses"], rel=TOLERANCE["fp16"])


def test_a_checkpoint_of_a_gpu_is_evaluated_there_and_on_a_cpu(reports):
    texts = [reports[f"evaluated {device}"]["out"].partition("=> result")[2].split("Wrote")[0] for device in DEVICES]
    assert "* accuracy: " in texts[0] and texts[0] == texts[1]


def test_predictions_on_a_gpu_equal_those_on_a_cpu(reports):
    tables = [list(csv.reader(io.StringIO(reports[f"predicted {device}"]["out"]))) for device in DEVICES]
    assert len(tables[0]) == len(tables[1]) > 100
    for on_gpu, on_cpu in zip(*tables, strict=True):
        for ours, other in zip(on_gpu, on_cpu, strict=True):
            assert ours == other or float(ours) == pytest.approx(float(other), abs=2e-6)


def test_a_gpu_transforms_images_and_trains_fp16_as_upstream_does(reports):
    on_gpu, on_cpu = (reports[f"upstream {device}"] for device in DEVICES)
    assert (on_gpu["code"], on_cpu["code"]) == (0, 0), on_gpu["err"] + on_cpu["err"]
    assert on_gpu["losses"] == pytest.approx(on_cpu["losses"], rel=5e-3) and on_gpu["losses"]
    assert "INPUT.AUGMENT auto: device (its pixels equal Pillow's" in on_gpu["out"]
    assert "INPUT.AUGMENT auto: cpu (there is no GPU" in on_cpu["out"]
    for report, augment in ((on_gpu, "device"), (on_cpu, "cpu")):
        path = report["out"].rpartition("Wrote ")[2].split()[0]
        with open(path, encoding="utf-8") as file:
            computed = json.load(file)["computed"]
        assert computed["augment"] == augment and computed["precision"] == "fp16-upstream"
        assert computed["deterministic"] and 0 <= computed["unchanged_share"] < 1
    assert computed.keys().isdisjoint({"tf32_matmul", "text_memory_bytes"})


def test_a_run_of_a_sweep_can_use_cuda_although_the_sweep_has_asked_for_gpus(tmp_path):
    """A fork of a process that has asked CUDA anything cannot use it; the runs are forks of a server that has not."""
    script, log = tmp_path / "script.py", tmp_path / "log.txt"
    script.write_text("import torch; print('bad fork:', torch.cuda._is_in_bad_fork())")
    torch.cuda.is_available()
    run = process.start(str(script), [], {**os.environ, "OMP_NUM_THREADS": "1"}, log)
    run.join()
    assert (run.exitcode, log.read_text().split()[-1]) == (0, "False")


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["QPrompted", "QOldCode", "QTuples", "QTwoOptimizers", "QMetaLearner"])
def test_the_launcher_trains_on_the_device(tmp_path, trainer):
    checkout = shutil.copytree(Path(__file__).parent / "dropin_checkout", tmp_path / "checkout")
    argv = ["qprompt", "train.py", "--root", "data", "--output-dir", "output", "--trainer", trainer]
    report = execute(tmp_path, [{"name": trainer, "argv": argv, "device": "cuda"}], folder=checkout)[trainer]
    assert report["code"] == 0, report["err"]
    assert (checkout / "output" / "prompt.qprompt").is_file()
