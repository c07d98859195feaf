"""Readers of tensors: prompt files, checkpoints, CLIP weights, cached features."""

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from fuzzing.formats import in_features, in_prompt_file, in_zip
from fuzzing.target import Target
from qprompt.backbones.dialects import recognize
from qprompt.backbones.weights import read_content
from qprompt.errors import UserError
from qprompt.prompt_files.format import read_prompt_file
from qprompt.prompt_files.packing import save
from qprompt.prompt_files.upstream import find_prompts
from qprompt.quantization.api import quantize_
from qprompt.training.feature_store import FeatureFiles


def targets() -> dict[str, Target]:
    checkpoints = _checkpoints()
    return {
        "prompt file": Target("p.qprompt", _prompt_files(), read_prompt_file, in_prompt_file),
        "checkpoint": Target("model.pth.tar-1", checkpoints[:3], _read_checkpoint, in_zip),
        "checkpoint, old format": Target("model.pth.tar-1", checkpoints[3:], _read_checkpoint),
        "CLIP weights": Target("w.pt", [_saved({"epoch": 3, "state_dict": _weights()})], _read_weights, in_zip),
        "CLIP weights, safetensors": Target("w.safetensors", [_safetensors()], _read_weights),
        "features": Target("k.features", [_features()], _read_features, in_features),
    }


def _learner() -> torch.nn.Module:
    learner = torch.nn.Module()
    learner.ctx = torch.nn.Parameter(torch.randn(2, 6))
    return learner


def _prompt_files() -> list[bytes]:
    torch.manual_seed(0)
    learner = _learner()
    learner.bias = torch.nn.Parameter(torch.randn(3))
    found = []
    for bits in (1, 3, 16):
        quantize_(learner, names=["ctx"], bits=bits)
        with tempfile.NamedTemporaryFile() as file:
            save(learner, file.name, words="a photo", class_position="end")
            found.append(Path(file.name).read_bytes())
        torch.nn.utils.parametrize.remove_parametrizations(learner, "ctx")
    return found


def _checkpoints() -> list[bytes]:
    """Contents of a plain one, a quantized one, one with a pickled scheduler, and one in torch's old format."""
    learner = _learner()
    plain = {"state_dict": learner.state_dict(), "epoch": 3, "optimizer": None, "val_result": 1.5}
    quantize_(learner, names=["ctx"], bits=2)
    quantized = {**plain, "state_dict": learner.state_dict(), "run": {"config": {"OPTIM.LR": 0.1}, "random": [1, "a"]}}
    pickled = {**plain, "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(learner.parameters(), 0.1), 1)}
    old_format = _saved(plain, _use_new_zipfile_serialization=False)
    return [_saved(plain), _saved(quantized), _saved(pickled), old_format]


def _saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _read_checkpoint(path: Path) -> None:
    from dassl.utils import load_checkpoint

    content = load_checkpoint(str(path))
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if isinstance(state, dict):
        for tensor in state.values():
            if isinstance(tensor, torch.Tensor):
                tensor.double().sum()  # reads every element of its storage
        find_prompts(state)


def _safetensors() -> bytes:
    return to_safetensors(_weights())


def _weights() -> dict[str, torch.Tensor]:
    return {"module.token_embedding.weight": torch.randn(3), "module.visual.proj": torch.randn(2, 2).half()}


def _read_weights(path: Path) -> None:
    for tensor in recognize(read_content(path), str(path)).state.values():
        tensor.double().sum()


def _features() -> bytes:
    data = _saved({"img": torch.randn(3, 4), "impath": ["a", "b", "c"], "label": [1, 2, 3]})
    return hashlib.sha256(data).digest() + data


def _read_features(path: Path) -> None:
    if FeatureFiles(path.parent, 2**30).read("k") is None:
        raise UserError("a damaged file counts as missing")
