"""The Dassl of a checkout's authors as a layer over the bundled engine."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qprompt import engine
from qprompt.dropin import own_dassl
from qprompt.dropin.own_dassl import changed_files, fingerprint, use_own_dassl
from tests import miniature
from tests.test_engine_activate import clean  # noqa: F401 (a fixture)
from tests.upstream import ROOT

BUILD = """
from dassl.utils import Registry
TRAINER_REGISTRY = Registry("TRAINER")
def build_trainer(cfg, name=None):
    return "of the fork", name
"""
TRAINER = """
from dassl.engine.simple_trainer import SimpleNet, SimpleTrainer
from dassl.engine.trainer_base import TrainerBase
from dassl.modeling.extra import answer
class TrainerX(SimpleTrainer):
    def run_epoch(self):
        self.num_batches = len(self.train_loader_x)
        self._run_batches((batch,) for batch in self.train_loader_x)
    def parse_batch_train(self, batch):
        return batch["img"], batch["label"], batch["domain"]
    def test(self, split=None, is_final=False):
        print("tested by the fork", answer, is_final)
        return super().test(split)
TrainerXU = TrainerX
"""
UNCHANGED = "# a comment is no change\n\n"


def fork(place, files=()):
    """Make a Dassl in `place` of files (path: text), and return its package."""
    for name, text in {"engine/trainer.py": UNCHANGED, "optim/radam.py": UNCHANGED, **dict(files)}.items():
        file = place / "dassl" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return place / "dassl"


def bundled(module):
    return Path(importlib.import_module(module).__file__).is_relative_to(engine.BUNDLED)


def test_comments_and_blanks_are_no_change(tmp_path):
    code = "def f():\n    return 1\n"
    assert fingerprint(code) == fingerprint("# what\r\ndef f():  \r\n\r\n    # why\n    return 1")
    assert len({fingerprint(text) for text in (code, code.replace("1", "2"), code.replace("    ", "  "))}) == 3
    assert changed_files(fork(tmp_path, {"engine/new.py": code})) == ("engine/new.py",)


@pytest.mark.parametrize("imported", [False, True])
def test_changed_and_lacking_modules_come_from_the_fork(clean, tmp_path, imported):  # noqa: F811
    files = {"engine/build.py": BUILD, "engine/more.py": "", "modeling/extra.py": "answer = 42"}
    fork(tmp_path / "Dassl.pytorch", files)
    if imported:  # installed, and of no use as a whole
        clean.syspath_prepend(str(tmp_path / "Dassl.pytorch"))
        (tmp_path / "Dassl.pytorch" / "dassl" / "__init__.py").write_text("")
    own = use_own_dassl(str(tmp_path))
    assert (own.changed, own.why_not) == (("engine/build.py", "modeling/extra.py"), "")
    assert "engine/build.py, modeling/extra.py are used, which its authors changed" in str(own)
    dassl = importlib.import_module("dassl.engine")
    assert dassl.build_trainer(None, name="two") == ("of the fork", "two")
    assert importlib.import_module("dassl.modeling.extra").answer == 42
    assert not bundled("dassl.engine.more")
    assert bundled("dassl.engine.trainer") and bundled("dassl.optim.radam") and bundled("dassl.data")
    with pytest.raises(ModuleNotFoundError, match="neither the bundled engine nor Dassl 0.6.3"):
        importlib.import_module("dassl.engine.nowhere")


def test_unchanged_dassl_is_not_mentioned(clean, tmp_path):  # noqa: F811
    fork(tmp_path / "Dassl.pytorch")
    own = use_own_dassl(str(tmp_path))
    assert str(own) == "" and own.changed == ()
    assert bundled("dassl.engine.trainer")
    assert use_own_dassl(str(tmp_path / "Dassl.pytorch" / "dassl" / "optim")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere_to_be_found", "they need nowhere_to_be_found, which is not installed: pip install nowhere"),
        ("raise TypeError('4 were given\\nmore')", r"they fail on torch \S+: TypeError: 4 were given\. "),
        ("x = 1", "ImportError: cannot import name 'TRAINER_REGISTRY'"),
    ],
)
def test_a_fork_that_fails_is_named_and_leaves_no_trace(clean, tmp_path, text, said):  # noqa: F811
    fork(tmp_path / "Dassl.pytorch", {"engine/build.py": text})
    finders = list(sys.meta_path)
    engine.stand_in_for_optional_packages()
    own = use_own_dassl(str(tmp_path))
    assert re.search(said, str(own))
    assert "is not used, nor what its authors changed (engine/build.py): " in str(own)
    assert "QPROMPT_ENGINE=dassl uses all of it" in str(own)
    assert [f for f in sys.meta_path if f not in finders and type(f).__name__ == "_Layer"] == []
    assert bundled("dassl.engine.build")


def test_an_unchanged_dassl_that_fails_is_no_layer(clean, tmp_path, monkeypatch):  # noqa: F811
    fork(tmp_path / "Dassl.pytorch", {"modeling/__init__.py": "import nowhere_to_be_found"})
    monkeypatch.setattr(own_dassl, "changed_files", lambda package: ())
    assert str(use_own_dassl(str(tmp_path))) == ""
    assert bundled("dassl.modeling") and bundled("dassl.engine")


def test_a_changed_schedule_that_fails_is_found(clean, tmp_path):  # noqa: F811
    text = "class ConstantWarmupScheduler:\n    def __init__(self, *a): raise TypeError('verbose')\n"
    text += "def build_lr_scheduler(*a): ...\n"
    fork(tmp_path / "Dassl.pytorch", {"optim/lr_scheduler.py": text})
    assert "TypeError: verbose" in use_own_dassl(str(tmp_path)).why_not


def test_a_fork_beside_the_checkout_is_used_in_the_same_repository(clean, tmp_path):  # noqa: F811
    fork(tmp_path / "Dassl.pytorch", {"engine/build.py": BUILD})
    (tmp_path / "CoOp").mkdir()
    own = use_own_dassl(str(tmp_path / "CoOp"))
    assert "it lies beside the checkout, not in it. QPROMPT_ENGINE=dassl uses all of it" in str(own)
    (tmp_path / ".git").mkdir()
    assert use_own_dassl(str(tmp_path / "CoOp")).why_not == ""


def test_the_bundled_engine_alone_on_request(clean, tmp_path):  # noqa: F811
    fork(tmp_path / "Dassl.pytorch", {"engine/build.py": BUILD})
    clean.setenv(engine.VARIABLE, "bundled")
    assert "QPROMPT_ENGINE=bundled; without this setting they are used" in str(use_own_dassl(str(tmp_path)))
    assert bundled("dassl.engine.build")


def test_which_errors_a_fork_may_explain(tmp_path):
    package = fork(tmp_path, {"engine/build.py": "def fail():\n    raise KeyError('of the fork')\n"})
    found = {}
    exec(compile((package / "engine/build.py").read_text(), str(package / "engine/build.py"), "exec"), found)
    for changed, why_not, fail, expected in (
        (("a.py",), "", found["fail"], True),
        (("a.py",), "", lambda: {}["elsewhere"], False),
        (("a.py",), "it fails", lambda: {}["elsewhere"], True),
        (("a.py",), "it fails", lambda: importlib.import_module("nowhere_to_be_found"), False),
        (("a.py",), "it fails", lambda: sys.exit(1), False),
        ((), "it fails", found["fail"], False),
    ):
        with pytest.raises(BaseException) as error:  # noqa: B017, PT011
            fail()
        assert own_dassl.OwnDassl(tmp_path, changed, why_not).may_explain(error.value) is expected


def launch(checkout, trainer, **variables):
    words = ["-m", "qprompt", "train.py", "--root", "data", "--output-dir", "out", "--trainer", trainer]
    done = subprocess.run(
        [sys.executable, *words, "OPTIM.MAX_EPOCH", "1"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QPROMPT_ENGINE": "", "CUDA_VISIBLE_DEVICES": "", **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def test_quantized_training_with_the_trainer_of_a_fork(tmp_path):
    checkout = shutil.copytree(miniature.FOLDER, tmp_path / "checkout")
    (checkout / "trainers" / "__init__.py").unlink()  # our own `trainers`, on the path too, must not come before it
    fork(checkout / "Dassl.pytorch", {"engine/trainer.py": TRAINER, "modeling/extra.py": "answer = 42"})
    code, log = launch(checkout, "QForked")
    assert code == 0, log
    assert "engine/trainer.py, modeling/extra.py are used, which its authors changed" in log
    assert "tested by the fork 42 True" in log
    assert (checkout / "out" / "prompt.qprompt").exists()


@pytest.mark.slow
def test_an_error_names_the_fork_that_was_not_used(tmp_path):
    checkout = shutil.copytree(miniature.FOLDER, tmp_path / "checkout")
    fork(checkout / "Dassl.pytorch", {"engine/trainer.py": "import nowhere_to_be_found"})
    (checkout / "train.py").write_text("from dassl.engine.trainer import OfTheFork")
    code, log = launch(checkout, "QForked")
    assert code == 1
    assert "ImportError: cannot import name 'OfTheFork'" in log
    last = log.splitlines()[-1]
    assert last.startswith("qprompt: this may be why: the Dassl in ")
    assert "engine/trainer.py): they need nowhere_to_be_found, which is not installed" in last
