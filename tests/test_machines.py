"""Windows and macOS: no modules and functions of Unix alone, workers that are not forked, and an ASCII terminal."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import trees
from commands import python

# What Windows lacks. torch decides by sys.platform whether to use os.register_at_fork, so that one stays.
WINDOWS = """
import os, signal, sys, warnings
warnings.filterwarnings("ignore", message="only soft file lock")  # filelock has its own lock for Windows
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "killpg", "setsid", "getuid", "geteuid", "getpgid", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGALRM"):
    if hasattr(signal, name):
        delattr(signal, name)
import importlib, pkgutil
import qprompt
from qprompt.engine import activate
activate()
for module in pkgutil.walk_packages(qprompt.__path__, "qprompt."):
    if not module.name.endswith("__main__") and ".engine.dassl" not in module.name:
        importlib.import_module(module.name)
import train
from qprompt.__main__ import main
code = train.main(sys.argv[2:])
print("train.py", code)
print("report", main(["report", sys.argv[1], "--out", sys.argv[1] + "_report"]))
"""


def test_a_run_without_the_modules_of_unix_on_an_ascii_terminal(clip_file, tmp_path):
    trees.build(tmp_path, "EuroSAT", content=trees.jpeg())
    run = tmp_path / "Läufe" / "eins"
    argv = ["--root", str(tmp_path), "--trainer", "QCoOp", "--output-dir", str(run), "--seed", "0"]
    argv += ["--dataset-config-file", "configs/datasets/eurosat.yaml", "--backbone", "ViT-B/16"]
    argv += ["MODEL.BACKBONE.PATH", str(clip_file), "INPUT.SIZE", "32", "INPUT.TRANSFORMS", "['normalize']"]
    argv += ["DATASET.NUM_SHOTS", "2", "OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]
    argv += ["TRAINER.COOP.PREC", "fp32", "TRAINER.COOP.N_CTX", "2"]
    project = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(project)}
    done = subprocess.run(
        [python(), "-c", WINDOWS, str(run.parent), *argv], cwd=project, env=environment, capture_output=True
    )
    out = done.stdout.decode("ascii")  # nothing else is on the stream
    assert done.returncode == 0, done.stderr
    assert "train.py 0" in out and "report 0" in out
    record = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert record["prompt"]["bits"] == 1 and "host" not in record["peak_memory_bytes"]


SPAWN = """
import json, os, sys

if __name__ == "__main__":  # a spawned worker imports this file
    from qprompt.engine import activate
    activate()
    from dassl.data.datasets import Datum
    from PIL import Image, ImageFile
    from torch.utils.data import DataLoader
    import qprompt.data.images as images
    from qprompt.training.defaults import default_cfg
    from qprompt.training.image_dataset import ImageDataset

    Image.new("RGB", (80, 80), "red").save("large.png")
    Image.effect_noise((64, 64), 50).save("whole.jpg")
    with open("whole.jpg", "rb") as whole, open("cut.jpg", "wb") as cut:
        cut.write(whole.read()[:-600])
    cfg = default_cfg()
    cfg.DATASET.NAME = "ImageFolder"
    dataset = ImageDataset(cfg, [Datum(impath="large.png"), Datum(impath="cut.jpg")], transform=None)
    images.MAX_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = 5000, True
    for start in (None, "fork", "spawn"):
        options = {"num_workers": 1, "multiprocessing_context": start} if start else {}
        items, found = iter(DataLoader(dataset, batch_size=None, **options)), []
        for _ in dataset.data_source:
            try:
                found.append(list(next(items)["img"].size))
            except images.ImageError as error:
                found.append(str(error))
        print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are never forked here")
def test_a_spawned_worker_reads_and_refuses_as_a_forked_one(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(SPAWN, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([python(), script], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    alone, forked, spawned = map(json.loads, done.stdout.decode().splitlines())
    assert alone == forked == spawned
    assert "80 x 80 pixels, more than the maximum of 5000" in alone[0] and alone[1] == [64, 64]
