"""Shared fixtures: an engine under the name `dassl`, and a tiny random CLIP."""

import contextlib
import gc
import logging
import os
import sys
from pathlib import Path

import commands
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # trainers/ and datasets/ lie beside the package, not in it


def pytest_configure(config):
    """Start the server of `commands.python`, and activate the engine."""
    stack = contextlib.ExitStack()
    stack.enter_context(commands.started())
    config.add_cleanup(stack.close)
    if config.getoption("dist", "no") != "no":
        return  # the tests run in workers, and here even importing PyTorch would be too long

    import torch
    from hypothesis import HealthCheck, settings

    from qprompt.engine import activate

    # Nothing depends on how fast the machine is just now.
    settings.register_profile("any_load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any_load")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    config.engine = activate().name
    if config.engine != "bundled":
        from dassl.utils.logger import Logger

        Logger.__del__ = lambda logger: logger.file.close()  # real Dassl's also closes the console, pytest's
    if config.engine == "dassl":
        for line in (
            "ignore:The verbose parameter",
            "ignore:You are using `torch.load`:FutureWarning",
            "ignore:Failed to check for latest version",  # a package that it imports looks for updates
        ):
            config.addinivalue_line("filterwarnings", line)


def pytest_collection_modifyitems(config, items):
    import torch

    missing = {} if torch.cuda.is_available() else {"gpu": "needs a CUDA device"}
    if config.engine != "bundled":
        missing["bundled_only"] = "the bundled engine only"
    for item in items:
        for marker in missing:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=missing[marker]))


def pytest_unconfigure():
    gc.freeze()  # the interpreter need not look for garbage in all of PyTorch before it ends, which takes a second


@pytest.fixture(autouse=True)
def reset_logging():
    """Undo `show_logs` after each test, so that it does not change what the next test captures."""
    yield
    from qprompt.io.logs import LOGGER

    logger = logging.getLogger(LOGGER)
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture(scope="session")
def clip_weights():
    """Random weights of the tiny CLIP, shared by all tests: copy a tensor before changing it."""
    from qprompt.backbones.random_weights import TEST_SHAPE, random_state_dict

    return random_state_dict(TEST_SHAPE)


@pytest.fixture(scope="session")
def clip_file(clip_weights, tmp_path_factory):
    """The same weights as a file for MODEL.BACKBONE.PATH."""
    from clip_copies import copying

    from qprompt.backbones.random_weights import TEST_SHAPE, write_clip
    from qprompt.training import prompt_trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_trainer, "load_clip", copying(prompt_trainer.load_clip))
        yield write_clip(tmp_path_factory.mktemp("clip") / "tiny_random.pt", clip_weights, TEST_SHAPE)


@pytest.fixture(scope="session")
def clip_model(clip_file):
    """The tiny CLIP: fp32, frozen, shared by all tests. Do not change it."""
    from qprompt.backbones import load_clip

    return load_clip("ViT-B/16", clip_file)


@pytest.fixture
def onednn(monkeypatch):
    """Multiply with oneDNN on any CPU; gives the list of the shapes multiplied."""
    import torch

    from qprompt.prompted_clip import onednn_linear

    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.skip("this PyTorch has no oneDNN to call")
    multiply, shapes = onednn_linear._multiply, []

    def recorded(x, weight, bias):
        shapes.append((tuple(x.shape), tuple(weight.shape)))
        return multiply(x, weight, bias)

    monkeypatch.setattr(onednn_linear, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(onednn_linear, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(onednn_linear, "_multiply", recorded)
    return shapes
