"""The bash scripts of each trainer. fake_train.py takes the place of train.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import python
from sweep_project import HERE, make_project, write

import qprompt
from qprompt.runs import protocol
from qprompt.sweep.plan import plan
from qprompt.sweep.spec import read_spec

ROOT = HERE.parent
SCRIPTS = sorted(p.relative_to(ROOT) for p in (ROOT / "scripts").glob("*/*.sh"))


@pytest.fixture
def project(tmp_path):
    """The scripts, fake_train.py as train.py, and configs with the published names."""
    make_project(tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("*.py"))
    for trainer, name in (
        ("QCoOp", "vit_b16_ctxv1"),
        ("QCoOp", "vit_b16_ep50_ctxv1"),
        ("CoOp", "rn50"),
        ("QCoOp", "vit_b16_ep50"),
    ):
        write(tmp_path / f"configs/trainers/{trainer}/{name}.yaml", "OPTIM:\n  MAX_EPOCH: 4\n")
    write(tmp_path / "configs/datasets/imagenet.yaml", "DATASET:\n  NAME: ImageNet\n")
    return tmp_path


def bash(project, script, *words, cwd=None, **variables):
    env = {k: v for k, v in os.environ.items() if k not in ("DATA", "CFG", "SHOTS", "OUTPUT", "SUB", "FAKE_TRAIN")}
    command = ["bash", str(project / "scripts" / script), *words]
    env |= {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(command, cwd=cwd or project, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def record(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_base_to_new(project):
    assert bash(project, "qcoop/base2new_train.sh", "pets", "2", DATA="data")[0] == 0
    assert bash(project, "qcoop/base2new_test.sh", "pets", "2", DATA="data")[0] == 0
    assert bash(project, "qcoop/base2new_test.sh", "pets", "2", SUB="base")[0] == 0
    tail = "pets/shots_16/QCoOp/vit_b16_ctxv1/seed2"
    trained, base, new = (
        record(project / f"output/base2new/{part}/{tail}") for part in ("train_base", "test_base", "test_new")
    )
    assert [r["config"]["DATASET"]["SUBSAMPLE_CLASSES"] for r in (trained, base, new)] == ["base", "base", "new"]
    assert (new["model_dir"], new["load_epoch"]) == (f"output/base2new/train_base/{tail}", "last")


def test_config_shots_output_and_working_directory_can_be_chosen(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code, out = bash(
        project, "qcoop/base2new_train.sh", "pets", "1", cwd=elsewhere, CFG="tiny", SHOTS="4", OUTPUT="mine"
    )
    assert code == 0, out
    assert record(elsewhere / "mine/base2new/train_base/pets/shots_4/QCoOp/tiny/seed1")["trainer"] == "QCoOp"


def test_cross_dataset_and_few_shot(project):
    assert bash(project, "qcoop/xd_train.sh", "imagenet", "1")[0] == 0
    assert bash(project, "qcoop/xd_test.sh", "dtd", "1")[0] == 0
    model_dir = record(project / "output/evaluation/QCoOp/vit_b16_ep50_ctxv1_16shots/dtd/seed1")["model_dir"]
    assert model_dir == "output/imagenet/QCoOp/vit_b16_ep50_ctxv1_16shots/seed1"
    assert bash(project, "qcoop/few_shot.sh", "pets", "1", SEEDS="5 6")[0] == 0
    assert {p.name for p in (project / "output/pets/QCoOp/vit_b16_ep50_1shots").iterdir()} == {"seed5", "seed6"}


def test_main_takes_the_arguments_of_coop(project):
    assert bash(project, "coop/main.sh", "pets", "rn50", "end", "16", "1", "False")[0] == 0
    folders = list((project / "output/pets/CoOp/rn50_1shots/nctx16_cscFalse_ctpend").iterdir())
    assert {p.name for p in folders} == {"seed1", "seed2", "seed3"}
    coop = record(folders[0])["config"]["TRAINER"]["COOP"]
    assert coop == {"N_CTX": 16, "CSC": False, "CLASS_TOKEN_POSITION": "end"}


def test_reproduce_from_checkpoints_and_from_a_prompt_file(project):
    assert bash(project, "qcoop/base2new_train.sh", "pets", "1", OUTPUT="theirs")[0] == 0
    theirs = "theirs/base2new/train_base/pets/shots_16/QCoOp/vit_b16_ctxv1"
    assert bash(project, "qcoop/reproduce.sh", "pets", "1", theirs)[0] == 0
    tail = "pets/shots_16/QCoOp/vit_b16_ctxv1/seed1"
    for part in ("test_base", "test_new"):
        assert record(project / f"output/base2new/{part}/{tail}")["model_dir"] == f"{theirs}/seed1"

    qprompt.pack({"ctx": torch.randn(4, 8)}, project / "pets.qprompt")
    code, out = bash(project, "qcoop/reproduce.sh", "pets", "1", "pets.qprompt", OUTPUT="again", PYTHON=python())
    assert code == 0, out
    model_dir = record(project / f"again/base2new/test_new/{tail}")["model_dir"]
    saved = torch.load(project / model_dir / "prompt_learner/model.pth.tar-1", weights_only=True)
    assert torch.equal(saved["state_dict"]["ctx"], qprompt.unpack(project / "pets.qprompt", "coop")["ctx"])

    (project / "broken.qprompt").write_bytes(b"no prompt")
    code, out = bash(project, "qcoop/reproduce.sh", "pets", "2", "broken.qprompt", PYTHON=python())
    assert code == 2
    assert out.startswith("qprompt: ")


def test_failure_ends_the_script(project):
    code, out = bash(project, "qcoop/few_shot.sh", "pets", "1", FAKE_TRAIN="fail:seed1")
    assert code == 1
    assert "it broke here" in out
    assert not (project / "output/pets/QCoOp/vit_b16_ep50_1shots/seed2").exists()


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("qcoop/base2new_train.sh", ["pets"], r"usage: .* base2new_train QCoOp DATASET SEED +\(got: pets\)"),
        ("run.sh", ["base2old", "CoOp"], "EXPERIMENT: base2new_train"),
        ("run.sh", [], "usage: bash scripts/run.sh EXPERIMENT TRAINER"),
        ("run.sh", ["few_shot", "QOther", "pets", "1"], "type CFG=NAME"),
    ],
)
def test_mistakes_are_named(project, script, words, message):
    code, out = bash(project, script, *words)
    assert code == 2
    assert re.search(message, out)


def test_scripts_and_sweeps_have_the_same_folders_and_configs(project, monkeypatch):
    for script, *words in (
        ("base2new_train", "pets", "1"),
        ("base2new_test", "pets", "1"),
        ("few_shot", "pets", "1"),
        ("xd_train", "imagenet", "1"),
        ("xd_test", "dtd", "1"),
    ):
        code, out = bash(project, f"qcoop/{script}.sh", *words, DATA="data", SEEDS="1")
        assert code == 0, out
    assert bash(project, "qcoop/base2new_test.sh", "pets", "1", DATA="data", SUB="base")[0] == 0
    monkeypatch.chdir(project)
    planned = {}
    for name, more in (
        ("base2new", "datasets: [pets]"),
        ("few_shot", "datasets: [pets]\nshots: 1"),
        ("cross_dataset", "source: imagenet\ndatasets: [dtd]"),
    ):
        spec = f"protocol: {name}\nroot: data\nseeds: 1\ntrainers: {{QCoOp: published}}\n{more}\n"
        runs = plan(read_spec(str(write(project / "spec.yaml", spec))))
        planned |= {run.folder: run.after or "" for run in runs}
    found = {
        str(file.parent): record(file.parent).get("model_dir", "") for file in Path("output").rglob("metrics.json")
    }
    assert found == planned


def every_choice(choice):
    return [name for each in choice.values() for name in every_choice(each)] if isinstance(choice, dict) else [choice]


@pytest.mark.parametrize(
    ("trainer", "name"),
    [(trainer, name) for trainer, choice in protocol._assets()["configs"].items() for name in every_choice(choice)],
)
def test_published_configs_exist(trainer, name):
    quantized = [f"Q{trainer}"] if protocol.published_config("base2new", f"Q{trainer}", "dtd", 16) else []
    for each in (trainer, *quantized):
        folder = ROOT / "configs/trainers" / each
        assert not folder.is_dir() or (folder / f"{name}.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        (("base2new", "CoOp", "imagenet", 16), "vit_b16_ep50_ctxv1"),
        (("base2new", "QCoOp", "dtd", 16), "vit_b16_ctxv1"),
        (("few_shot", "CoOp", "imagenet", 4), "vit_b16_ep50"),
        (("few_shot", "QCoOp", "dtd", 4), "vit_b16_ep100"),
        (("few_shot", "CoOp", "dtd", 16), "vit_b16"),
        (("cross_dataset", "CoOp", "dtd", 16), "vit_b16_ep50_ctxv1"),
        (("cross_dataset", "QMaPLe", "dtd", 16), "vit_b16_c2_ep5_batch4_2ctx_cross_datasets"),
        (("few_shot", "MaPLe", "dtd", 1), "vit_b16_c2_ep5_batch4_2ctx"),
        (("base2new", "Other", "dtd", 16), None),
    ],
)
def test_published_config(arguments, config):
    assert protocol.published_config(*arguments) == config


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_scripts_pass_shellcheck():
    scripts = sorted((ROOT / "scripts").rglob("*.sh"))
    done = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_every_script_says_how_to_call_it(script):
    text = (ROOT / script).read_text()
    assert f"#   bash {script} " in text
    assert f'run.sh" {script.stem} ' in text
