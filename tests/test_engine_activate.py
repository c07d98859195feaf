"""The Dassl that `activate()` chooses, its messages, and the parts that the bundled engine does not include."""

import importlib.util
import sys

import pytest

from qprompt import engine
from qprompt.engine import BUNDLED, activate
from qprompt.errors import UserError

FAKE_SCHEDULER = """
class ConstantWarmupScheduler:
    def __init__(self, optimizer, successor, epochs, rate):
        {body}
    def step(self):
        pass
    def state_dict(self):
        return {{}}
"""
FAKE_UTILS = """
def save_checkpoint(state, folder): print("saved")
def resume_from_checkpoint(folder, *parts): {body}
"""


@pytest.fixture
def clean(monkeypatch):
    """A state as in a new process: no engine chosen, no dassl imported or on the path. It is restored afterwards."""
    saved = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "dassl"}
    for name in saved:
        del sys.modules[name]
    paths = [path for path in sys.path if path != str(engine.HERE) and not (engine.Path(path) / "dassl").exists()]
    monkeypatch.setattr(sys, "path", paths)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(engine, "_active", None)
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    yield monkeypatch
    for name in [name for name in sys.modules if name.partition(".")[0] == "dassl"]:
        del sys.modules[name]
    sys.modules.update(saved)


def install(clean, folder, scheduler="pass", resume="pass", extra=""):
    """Put a fake dassl on the path and return its folder."""
    files = {
        "__init__.py": "__version__ = '9.9'\n",
        "optim/__init__.py": extra,
        "optim/lr_scheduler.py": FAKE_SCHEDULER.format(body=scheduler),
        "utils/__init__.py": FAKE_UTILS.format(body=resume),
    }
    for name, text in files.items():
        (folder / "dassl" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "dassl" / name).write_text(text)
    clean.syspath_prepend(str(folder))
    return folder / "dassl"


def test_bundled_engine_is_used_if_no_dassl_is_installed(clean):
    info = activate()
    assert str(info) == "engine: bundled Dassl (no 'dassl' is installed)"
    assert info.name == "bundled" and info.path == str(BUNDLED)
    assert importlib.import_module("dassl").__file__ == str(BUNDLED / "__init__.py")
    assert activate() is info


def test_activation_prints_nothing(clean, tmp_path, capfd):
    install(clean, tmp_path)
    activate()
    assert capfd.readouterr() == ("", "")


def test_installed_dassl_is_used_if_it_works(clean, tmp_path):
    folder = install(clean, tmp_path)
    info = activate()
    assert (info.name, info.path) == ("dassl", str(folder))
    assert str(info) == f"engine: installed Dassl (9.9 in {folder})"
    assert importlib.import_module("dassl").__version__ == "9.9"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"extra": "import wilds_of_old, os"}, "needs wilds_of_old, which is not installed"),
        ({"scheduler": "raise TypeError('takes 3 arguments\\nbut 4 were given')"}, "TypeError: takes 3 arguments"),
        ({"resume": "raise RuntimeError('weights_only')"}, "RuntimeError: weights_only"),
        ({"extra": "import qprompt.no_such_module"}, "No module named"),
    ],
)
def test_installed_dassl_that_fails_is_replaced_and_named(clean, tmp_path, fault, said):
    folder = install(clean, tmp_path, **fault)
    info = activate()
    assert info.name == "bundled" and str(folder) in info.reason and said in info.reason
    assert "\n" not in str(info)
    assert importlib.import_module("dassl.config").__file__.startswith(str(BUNDLED))

    clean.setenv(engine.VARIABLE, "dassl")
    with pytest.raises(UserError, match="already in use"):
        activate()


def test_requested_dassl_that_fails_is_an_error(clean, tmp_path):
    install(clean, tmp_path, resume="raise RuntimeError('weights_only')")
    clean.setenv(engine.VARIABLE, "dassl")
    with pytest.raises(UserError, match="QPROMPT_ENGINE=dassl, but .* weights_only; unset QPROMPT_ENGINE"):
        activate()
    assert "dassl" not in sys.modules


def test_requested_dassl_that_is_not_installed_is_an_error(clean):
    clean.setenv(engine.VARIABLE, "dassl")
    with pytest.raises(UserError, match="no 'dassl' is installed: pip install git"):
        activate()


def test_bundled_engine_is_used_on_request(clean, tmp_path):
    install(clean, tmp_path)
    clean.setenv(engine.VARIABLE, "bundled")
    assert activate().reason == "QPROMPT_ENGINE=bundled"
    assert importlib.import_module("dassl").__file__.startswith(str(BUNDLED))


def test_unknown_engine_is_an_error(clean):
    clean.setenv(engine.VARIABLE, "bundeld")
    with pytest.raises(UserError, match="'bundeld', expected one of auto, dassl, bundled. Did you mean 'bundled'?"):
        activate()


def test_dassl_imported_before_is_used_if_it_works(clean, tmp_path):
    install(clean, tmp_path)
    importlib.import_module("dassl")
    assert activate().name == "dassl"  # it works
    clean.setattr(engine, "_active", None)
    clean.setenv(engine.VARIABLE, "bundled")
    with pytest.raises(UserError, match="another dassl was imported before"):
        activate()


def test_dassl_imported_before_that_fails_is_an_error(clean, tmp_path):
    install(clean, tmp_path, resume="raise RuntimeError('weights_only')")
    importlib.import_module("dassl")
    with pytest.raises(UserError, match="another dassl was imported before.*weights_only.*activate the engine first"):
        activate()


def test_empty_folder_named_dassl_is_ignored(clean, tmp_path):
    (tmp_path / "dassl").mkdir()
    clean.syspath_prepend(str(tmp_path))
    assert activate().reason == "no 'dassl' is installed"


def test_bundled_engine_on_the_path_is_recognized(clean):
    clean.syspath_prepend(str(engine.HERE))  # as PYTHONPATH or a parent process may do
    importlib.import_module("dassl")
    assert activate().name == "bundled"


def test_missing_parts_name_real_dassl(clean):
    activate()
    with pytest.raises(ModuleNotFoundError, match="neither the bundled engine nor Dassl 0.6.3 has dassl.engine.mine"):
        importlib.import_module("dassl.engine.mine")
    from dassl.data.datasets import PACS
    from dassl.engine import DANN

    with pytest.raises(UserError, match=r"dassl\.engine\.da\.dann\.DANN is not in the bundled engine.*pip install git"):
        DANN(None)
    with pytest.raises(ImportError, match="real Dassl has it"):
        PACS(None)
    import dassl.engine

    assert not hasattr(dassl.engine, "no_such_name")
    from dassl.config import get_cfg_default
    from dassl.data.datasets import build_dataset
    from dassl.engine import SimpleNet, build_trainer

    cfg = get_cfg_default()
    cfg.TRAINER.NAME, cfg.DATASET.NAME = "FixMatch", "Office31"
    with pytest.raises(ImportError, match="trainer FixMatch is not in the bundled engine"):
        build_trainer(cfg)
    with pytest.raises(ImportError, match="data set Office31 is not in the bundled engine"):
        build_dataset(cfg)
    with pytest.raises(ImportError, match="real Dassl has it"):
        SimpleNet(cfg, cfg.MODEL, 3)


def test_engine_is_imported_only_as_dassl(clean):
    with pytest.raises(ImportError, match="activate"):
        importlib.import_module("qprompt.engine.dassl")
    sys.modules.pop("qprompt.engine.dassl", None)


def test_optional_packages_do_not_disqualify_a_dassl(clean, tmp_path):
    """Real Dassl imports gdown for downloads and wilds for data sets of other fields."""
    folder = install(clean, tmp_path, extra="import gdown\nfrom wilds import get_dataset\n")
    if importlib.util.find_spec("gdown") is not None:
        pytest.skip("gdown is installed")
    info = activate()
    assert (info.name, info.path) == ("dassl", str(folder))
    import dassl.optim

    with pytest.raises(ImportError, match="gdown is not installed, and is needed here"):
        dassl.optim.gdown.download("url")


def test_dassl_of_a_checkout_is_found(tmp_path):
    assert engine.own_dassl(tmp_path) is None
    checkout = tmp_path / "KgCoOp"
    for place in (tmp_path / "Dassl.ProGrad.pytorch", checkout / "Dassl.pytorch"):  # beside it; in it
        (place / "dassl" / "engine").mkdir(parents=True)
        (place / "dassl" / "engine" / "trainer.py").write_text("")
        assert engine.own_dassl(checkout) == place.resolve()
