"""Reading a sweep's spec, and the runs that it stands for."""

import dataclasses
import itertools
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_project import HERE, make_project, write

from qprompt.errors import UserError
from qprompt.sweep.plan import plan
from qprompt.sweep.spec import Dataset, read_spec

ROOT = HERE.parent
BASE2NEW = "protocol: base2new\ndatasets: [pets]\ntrainers: {CoOp: tiny}\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    monkeypatch.delenv("DATA", raising=False)
    return tmp_path


def spec_of(text, *overrides):
    return read_spec(str(write(Path("spec.yaml"), text)), overrides)


def runs_of(text, *overrides):
    return plan(spec_of(text, *overrides))


def test_base_to_new_folders_and_order(project):
    runs = runs_of(BASE2NEW, "seeds=[1, 2]")
    tail = "pets/shots_16/CoOp/tiny/seed"
    assert [r.folder for r in runs] == [
        f"output/base2new/{part}/{tail}{seed}" for seed in (1, 2) for part in ("train_base", "test_base", "test_new")
    ]
    train, base, new = runs[:3]
    assert (train.after, base.after, new.after) == (None, train.folder, train.folder)
    assert " ".join(new.argv) == (
        "--seed 1 --trainer CoOp --dataset-config-file configs/datasets/pets.yaml --config-file "
        f"configs/trainers/CoOp/tiny.yaml --output-dir {new.folder} --eval-only --model-dir {train.folder} "
        "--load-epoch 7 FEATURE_CACHE epochs DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES new"
    )
    repeatable = runs_of(BASE2NEW, "settings={DETERMINISTIC: true}")[0]
    assert "DETERMINISTIC True" in " ".join(repeatable.argv) and repeatable.settings.config["DETERMINISTIC"] is True
    own = runs_of(BASE2NEW, "settings={FEATURE_CACHE: auto}")[0]
    assert "FEATURE_CACHE auto" in " ".join(own.argv) and own.settings.config["FEATURE_CACHE"] == "auto"


def test_few_shot_config_depends_on_shots_and_data_set(project):
    text = "protocol: few_shot\ndatasets: [pets, dtd]\nshots: [1, 16]\nseeds: 1\n"
    runs = runs_of(text + "trainers: {CoOp: {1: short, dtd: short, default: tiny}}")
    assert [r.folder for r in runs] == [
        "output/pets/CoOp/short_1shots/seed1",
        "output/pets/CoOp/tiny_16shots/seed1",
        "output/dtd/CoOp/short_1shots/seed1",
        "output/dtd/CoOp/short_16shots/seed1",
    ]
    with pytest.raises(UserError, match="no config of CoOp for pets with 16 shots"):
        runs_of(text + "trainers: {CoOp: {1: short}}")


def test_cross_dataset_trains_once_on_the_source(project):
    runs = runs_of(
        "protocol: cross_dataset\nsource: pets\ndatasets: [dtd, world@1-2]\ntrainers: {CoOp: tiny}\nseeds: 3"
    )
    assert [r.folder for r in runs] == [
        "output/pets/CoOp/tiny_16shots/seed3",
        "output/evaluation/CoOp/tiny_16shots/dtd/seed3",
        "output/evaluation/CoOp/tiny_16shots/world@1/seed3",
        "output/evaluation/CoOp/tiny_16shots/world@2/seed3",
    ]
    assert all(r.after == runs[0].folder for r in runs[1:])
    assert "DATASET.DRAW 2" in " ".join(runs[3].argv)


def test_zero_shot_runs_once_and_never_trains(project):
    runs = runs_of(BASE2NEW + "baselines: {ZeroshotCLIP: tiny}\nseeds: 1-3\n")
    zero = [r for r in runs if r.trainer == "ZeroshotCLIP"]
    assert [r.folder.split("/")[2] for r in zero] == ["test_base", "test_new"]
    assert all("--eval-only" in r.argv and "--model-dir" not in r.argv for r in zero)
    few = runs_of("protocol: few_shot\ndatasets: [pets]\nshots: [1, 2]\ntrainers: {ZeroshotCLIP: tiny}\n")
    assert [r.folder for r in few] == ["output/ZeroshotCLIP/tiny/pets"]
    other = (
        "protocol: cross_dataset\nsource: dtd\ndatasets: [pets]\nshots: 4\nseeds: 9\ntrainers: {ZeroshotCLIP: tiny}\n"
    )
    assert few[0] in runs_of(other)  # two sweeps share it


def test_baselines_have_no_variants_and_grid(project):
    runs = runs_of(
        "protocol: few_shot\ndatasets: [pets]\nseeds: 1\ntrainers: {QCoOp: tiny}\nbaselines: {CoOp: tiny}\n"
        "variants: {fixed: {TRAINER: {QUANT: {POLICY: once}}}, cac: }\n"
        "grid: {TRAINER.QUANT.BITS: [1, 2], TRAINER.COOP.CTX_INIT: ['', a photo of a]}\n"
    )
    assert [r.folder.removeprefix("output/pets/").removesuffix("/seed1") for r in runs] == [
        "CoOp/tiny_16shots",
        *(
            f"QCoOp/tiny_16shots/{variant}_bits{bits}_ctx_init{init}"
            for variant in ("fixed", "cac")
            for bits in (1, 2)
            for init in ("none", "a-photo-of-a")
        ),
    ]
    assert "TRAINER.QUANT.POLICY once TRAINER.QUANT.BITS 1" in " ".join(runs[1].argv)


def test_two_runs_never_share_a_folder(project):
    with pytest.raises(UserError, match="two runs with different settings have the same folder"):
        runs_of(BASE2NEW + "grid: {TRAINER.COOP.CTX_INIT: ['a b', 'a  b']}")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("protocol: base2new\n", [], "'datasets' is missing"),
        (BASE2NEW + "seed: 1", [], "no key 'seed'.* Did you mean 'seeds'"),
        (BASE2NEW, ["protocol=base2old"], "no protocol 'base2old'.* Did you mean 'base2new'"),
        (BASE2NEW, ["datasets=[petz]"], "Did you mean 'pets'"),
        (BASE2NEW, ["trainers={Coop: tiny}"], "no trainer 'Coop'.* Did you mean 'CoOp'"),
        (BASE2NEW, ["trainers={CoCoOp: tiny}"], "no configs in configs/trainers/CoCoOp"),
        (BASE2NEW, ["trainers={NoisyCoOp: published}"], "no published config of NoisyCoOp"),
        (BASE2NEW, ["trainers={CoOp: tiney}"], "Did you mean 'tiny'"),
        (BASE2NEW, ["seeds=3-1"], "numbers or ranges such as 1-3, got '3-1'"),
        (BASE2NEW, ["seeds"], "'seeds' is not KEY=VALUE"),
        (BASE2NEW, ["seeds=[1"], "the value of seeds is not valid YAML"),
        (BASE2NEW, ["source=pets"], "belongs to protocol cross_dataset, and only to it"),
        (BASE2NEW, ["protocol=cross_dataset"], "belongs to protocol cross_dataset, and only to it"),
        (BASE2NEW, ["baselines={CoOp: short}"], "CoOp is in both"),
        (BASE2NEW, ["load_epoch=best"], "'last', 'all' or the number"),
        (BASE2NEW, ["grid={A.B: 1}"], "A.B expects a list of values, got 1"),
        (BASE2NEW, ["variants={a/b: }"], "is used as a folder name"),
        (BASE2NEW, ["settings={OPTIM.LRR: 1}"], "no config key OPTIM.LRR.* Did you mean 'OPTIM.LR'"),
        (BASE2NEW, ["grid={OPTIM.LR: [low]}"], "OPTIM.LR expects a float"),
        (BASE2NEW, ["trainers=CoOp"], "'trainers' expects 'name: value' lines"),
        ("- a", [], "contains a list"),
        ("a: [", [], "is not valid YAML"),
    ],
)
def test_mistakes_are_named(project, text, overrides, message):
    with pytest.raises(UserError, match=message):
        runs_of(text, *overrides)


def test_missing_spec_suggests_an_existing_one(project):
    write(Path("configs/sweeps/quickstart.yaml"), BASE2NEW)
    with pytest.raises(UserError, match="Did you mean 'configs/sweeps/quickstart.yaml'"):
        read_spec("configs/sweeps/quickstat.yaml")


def test_data_root_from_the_spec_or_the_environment(project, monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    assert runs_of(BASE2NEW)[0].argv[:2] == ("--root", "/data")
    assert runs_of(BASE2NEW, "root=/mine")[0].argv[:2] == ("--root", "/mine")


SPECS = sorted(p.relative_to(ROOT) for p in (ROOT / "configs/sweeps").rglob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=str)
def test_specs_in_configs_can_be_planned(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = read_spec(str(path), ["root=DATA"])
    for trainer in (*spec.trainers, *spec.baselines):
        if not Path("configs/trainers", trainer).is_dir():
            pytest.skip(f"no configs of {trainer}")
    small = dataclasses.replace(spec, datasets=spec.datasets[:2], seeds=(1,))
    assert plan(small)
    for line in path.read_text().splitlines():
        assert len(line) <= 140


ABLATIONS = sorted(p.relative_to(ROOT) for p in (ROOT / "configs/sweeps/ablations").glob("*.yaml"))


@pytest.mark.parametrize("path", ABLATIONS, ids=str)
def test_commands_in_the_comments_of_specs_work(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    header = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = " ".join(line.removeprefix("# ").strip() for line in header).replace("\\ ", "")
    command = text.partition("On the benchmark: qprompt sweep ")[2]
    spec, *overrides = shlex.split(command)
    assert spec == str(path)
    assert plan(read_spec(spec, [*overrides, "seeds=1"]))


@given(first=st.integers(0, 50), count=st.integers(1, 20))
def test_draws_can_be_a_range(tmp_path_factory, first, count):
    file = tmp_path_factory.getbasetemp() / "draws.yaml"
    file.write_text(f"protocol: few_shot\ntrainers: {{CoOp: a}}\ndatasets: [w@{first}-{first + count - 1}]")
    assert read_spec(str(file)).datasets == tuple(Dataset("w", first + i) for i in range(count))
