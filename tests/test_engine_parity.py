"""The bundled engine against real Dassl 0.6.3: its recorded results (tests/golden/dassl.json), and side by side."""

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
def test_config_has_all_keys_types_and_defaults():
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
def test_learning_rates_equal(schedule):
    assert engine_probe.learning_rates()[schedule] == pytest.approx(GOLDEN["learning_rates"][schedule], rel=1e-12)


def test_learning_rates_of_coop_are_as_published():
    rates = GOLDEN["learning_rates"]["coop"]
    assert rates[:2] == [1e-5, 2e-3]
    assert rates[2] == pytest.approx(1.98769e-3, rel=1e-5)  # 20 epochs; 1.99988e-3 for 200


@pytest.mark.bundled_only
def test_optimizers_equal():
    assert engine_probe.updates() == GOLDEN["updates"]


@pytest.mark.bundled_only
def test_samplers_and_few_shot_draws_equal(tmp_path):
    assert as_json(engine_probe.draws(engine_probe.items(tmp_path))) == GOLDEN["draws"]


@pytest.mark.bundled_only
def test_printed_lines_and_metrics_equal(capsys):
    assert as_json(engine_probe.texts()) == GOLDEN["texts"]
    assert engine_probe.distances() == GOLDEN["distances"]


@pytest.mark.bundled_only
def test_public_names_exist():
    names = engine_probe.names()
    for module, public in GOLDEN["names"]["modules"].items():
        assert set(public) <= set(names["modules"][module]), module
    for trainer, public in GOLDEN["names"]["trainers"].items():
        assert set(public) <= set(names["trainers"][trainer]), trainer


def probe(path):
    """Return the output of engine_probe.py in a new process, with `path` first on the Python path."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"}
    script = Path(__file__).parent / "engine_probe.py"
    return json.loads(subprocess.run([sys.executable, str(script)], env=env, check=True, stdout=subprocess.PIPE).stdout)


@pytest.mark.slow
def test_images_and_batches_equal():
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
    """Return why real Dassl does not run with this Python and torch, or ""; checked in a new process."""
    code = "import sys; from qprompt.engine import Path, why_unusable; print(why_unusable(Path(sys.argv[1])) or '')"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(dassl), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(dassl / "dassl")]
    done = subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.strip()
