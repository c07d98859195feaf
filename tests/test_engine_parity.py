"""The bundled engine against real Dassl 0.6.3: what it computed (tests/golden/dassl.json), and side by side."""

import json
import os
import subprocess
import sys
from pathlib import Path

import engine_probe
import pytest

from tests.upstream import BUNDLED, ROOT, checkout

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dassl.json").read_text(encoding="utf-8"))


def as_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.bundled_only
def test_config_has_every_key_type_and_default():
    from dassl.config import clean_cfg, get_cfg_default

    cfg = get_cfg_default()
    assert as_json(engine_probe.flat(cfg)) == GOLDEN["config"]
    cfg.OPTIM.LR = 1.0
    assert get_cfg_default().OPTIM.LR != 1.0
    clean_cfg(cfg, "fixmatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


@pytest.mark.bundled_only
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("schedule", engine_probe.SCHEDULES)
def test_learning_rates(schedule):
    assert engine_probe.learning_rates()[schedule] == pytest.approx(GOLDEN["learning_rates"][schedule], rel=1e-12)


def test_coop_schedule_as_published():
    rates = GOLDEN["learning_rates"]["coop"]
    assert rates[:2] == [1e-5, 2e-3]
    assert rates[2] == pytest.approx(1.98769e-3, rel=1e-5)  # 20 epochs; 1.99988e-3 for 200


@pytest.mark.bundled_only
def test_optimizers():
    assert engine_probe.updates() == GOLDEN["updates"]


@pytest.mark.bundled_only
def test_samplers_and_few_shot_draws(tmp_path):
    assert as_json(engine_probe.draws(engine_probe.items(tmp_path))) == GOLDEN["draws"]


@pytest.mark.bundled_only
def test_texts_and_numbers(capsys):
    assert as_json(engine_probe.texts()) == GOLDEN["texts"]
    assert engine_probe.distances() == GOLDEN["distances"]


@pytest.mark.bundled_only
def test_every_public_name():
    names = engine_probe.names()
    for module, public in GOLDEN["names"]["modules"].items():
        assert set(public) <= set(names["modules"][module]), module
    for trainer, public in GOLDEN["names"]["trainers"].items():
        assert set(public) <= set(names["trainers"][trainer]), trainer


def probe(path):
    """The facts that a new process prints with `path` first on its path."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"}
    script = Path(__file__).parent / "engine_probe.py"
    return json.loads(subprocess.run([sys.executable, str(script)], env=env, check=True, stdout=subprocess.PIPE).stdout)


@pytest.mark.slow
def test_same_pictures_and_batches_as_real_dassl():
    dassl = checkout("dassl")
    fault = usable_here(dassl)
    if fault:
        pytest.skip(fault)
    real, bundled = probe(dassl), probe(BUNDLED)
    assert real["stable"] == GOLDEN
    for name, (pixels, *rest) in real["here"]["augmented"].items():
        assert bundled["here"]["augmented"][name] == [pixels, *rest], name
    assert bundled["here"]["batches"] == real["here"]["batches"]


def usable_here(dassl):
    """Why real Dassl does not run with this Python and torch, or None; asked in a process of its own."""
    code = "import sys; from qprompt.engine import Path, why_unusable; print(why_unusable(Path(sys.argv[1])) or '')"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(dassl), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(dassl / "dassl")]
    done = subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.strip()
