"""The wheel and the source distribution: complete, built without warnings, and usable without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from commands import python

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ("train.py", "trainers", "datasets", "configs")


def tracked():
    """Return the files of the checkout; the test is skipped where git does not know them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("needs a git checkout")
    return set(listed.stdout.splitlines())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout without what is not tracked, so that nothing in it helps the build."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder


def build(source, out, kind):
    """Build with setuptools' own entry points; return the file and what was printed."""
    code = f"from setuptools.build_meta import build_{kind} as b; print('built:', b({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.rpartition("built: ")[2].strip(), done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """run(*words) -> a finished process, with the unpacked wheel before the checkout on the path, in another folder."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(wheel[0]) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(elsewhere / "cache")}

    def run(*words, expect=0):
        done = subprocess.run(
            [python(), "-m", "qprompt", *words], cwd=elsewhere, env=environment, capture_output=True, text=True
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    run.folder, run.site = elsewhere, site
    return run


def warnings(output):
    # Bytecode is a matter of the environment (PYTHONDONTWRITEBYTECODE).
    return [line for line in output.splitlines() if "warn" in line.lower() and "byte-compiling" not in line]


def test_the_wheel_contains_the_package_and_the_project(wheel):
    path, output = wheel
    assert warnings(output) == []
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    ours = tracked()
    assert {name for name in ours if name.startswith("qprompt/")} <= names
    assert {f"qprompt/project/{name}" for name in ours if name.split("/")[0] in PROJECT} <= names
    assert not {name for name in names if name.split("/")[0] not in ("qprompt", "qprompt-0.1.0.dist-info")}


def test_the_source_distribution_is_the_checkout(source, tmp_path):
    path, output = build(source, tmp_path, "sdist")
    assert warnings(output) == []
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked() - names == set()


def test_the_wheel_trains_sweeps_and_reports_without_the_checkout(installed):
    spec = ["configs/sweeps/quickstart.yaml", "datasets=tiny_world@0", "trainers={QCoOp: tiny}", "baselines={}"]
    fast = "settings={OPTIM.MAX_EPOCH: 1, DATASET.NUM_SHOTS: 1}"
    done = installed("sweep", *spec, fast, "shots=1", "load_epoch=last", "--gpus", "none")
    assert "all 3 runs are finished" in done.stdout
    (record,) = (installed.folder / "output").glob("base2new/train_base/*/*/*/*/*/metrics.json")
    assert json.loads(record.read_text())["trainer"] == "QCoOp"
    log = (record.parent / "log.txt").read_text()
    assert f"trainers and data sets: {installed.site / 'qprompt/project'}" in log
    assert "QCoOp" in installed("report", "output", "--out", "rep").stdout


def test_a_checkout_in_the_working_directory_wins(installed, source):
    done = subprocess.run(
        [sys.executable, "-c", "from qprompt.runs.project import find_project; print(find_project())"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(installed.site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(source), done.stderr
