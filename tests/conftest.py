"""Shared fixtures: an engine under the name `dassl`, and a tiny random CLIP."""

import logging
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # trainers/ and datasets/ lie beside the package, not in it

from qprompt.backbones import load_clip  # noqa: E402
from qprompt.backbones.random_weights import TEST_SHAPE, random_state_dict, write_clip  # noqa: E402
from qprompt.engine import activate  # noqa: E402
from qprompt.io.logs import LOGGER  # noqa: E402
from qprompt.prompted_clip import onednn_linear  # noqa: E402

ENGINE = activate().name
if ENGINE != "bundled":
    from dassl.utils.logger import Logger

    Logger.__del__ = lambda logger: logger.file.close()  # real Dassl's also closes the console, which belongs to pytest
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_modifyitems(items):
    missing = {} if torch.cuda.is_available() else {"gpu": "needs a CUDA device"}
    if ENGINE != "bundled":
        missing["bundled_only"] = "the bundled engine only"
    for item in items:
        for marker in missing:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=missing[marker]))


def pytest_configure(config):
    """Ignore the warnings of real Dassl."""
    if ENGINE == "dassl":
        for line in (
            "ignore:The verbose parameter",
            "ignore:You are using `torch.load`:FutureWarning",
            "ignore:Failed to check for latest version",  # a package that it imports looks for updates
        ):
            config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def reset_logging():
    """Undo `show_logs` after each test, so that it does not change what the next test captures."""
    yield
    logger = logging.getLogger(LOGGER)
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture(scope="session")
def clip_weights() -> dict[str, torch.Tensor]:
    """Random weights of the tiny CLIP, shared by all tests: copy a tensor before changing it."""
    return random_state_dict(TEST_SHAPE)


@pytest.fixture(scope="session")
def clip_file(clip_weights, tmp_path_factory) -> Path:
    """The same weights as a file for MODEL.BACKBONE.PATH."""
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny_random.pt", clip_weights, TEST_SHAPE)


@pytest.fixture(scope="session")
def clip_model(clip_file) -> torch.nn.Module:
    """The tiny CLIP: fp32, frozen, shared by all tests. Do not change it."""
    return load_clip("ViT-B/16", clip_file)


@pytest.fixture
def onednn(monkeypatch):
    """Multiply with oneDNN on any CPU; gives the list of the shapes multiplied."""
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
