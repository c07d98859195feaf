"""Learned prompts in and out of prompt files: `save`, `load`, `pack`, `unpack`."""

import os
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qprompt import __version__
from qprompt.errors import UserError
from qprompt.prompt_files.class_names import class_names
from qprompt.prompt_files.format import DTYPES, StoredTensor, read_prompt_file, write_prompt_file
from qprompt.prompt_files.upstream import checkpoint_tensors, find_prompts, original_checkpoints
from qprompt.prompts import get_method
from qprompt.quantization.api import check_finite, quantized_parameters
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize


@torch.no_grad()
def save(
    module: nn.Module, path: str | os.PathLike[str], exact: bool = False, also: Collection[str] = (), **metadata: Any
) -> None:
    """Write the quantized tensors of `module` to a prompt file, and its other trainable ones in half precision.

    Args:
        module: a module with quantized parameters.
        path: of the prompt file; it is replaced atomically.
        exact: store the other tensors in full precision where half precision would round them.
        also: names of parameters to store that are not trainable.
        metadata: `load_classifier` reads ``classnames`` (a list, "cat,dog", or a file with one name per line),
            ``preprocessing`` (see `Preprocessing`), ``method``, ``backbone``, ``backbone_sha256``, ``words`` (the
            prompt before the class name; the context vectors take the places of its first tokens),
            ``class_position`` ("end", "middle", "front") and ``logit_scale``. Anything else that JSON can hold is
            stored too.
    """
    quantized = quantized_parameters(module)
    if not quantized:
        raise UserError("the module has no quantized tensors: call qprompt.quantize_ first, or qprompt.pack")
    stored = {name: stored_tensor(name, weight, fake) for name, (fake, weight) in quantized.items()}
    for name, parameter in module.named_parameters():
        wanted = parameter.requires_grad or name in also
        if wanted and name not in stored and ".parametrizations." not in f".{name}":
            rounds = exact and not torch.equal(parameter, parameter.to(torch.float16).to(parameter.dtype))
            stored[name] = full_tensor(name, parameter) if rounds else stored_tensor(name, parameter)
    write_prompt_file(path, stored, _about(metadata))


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return name -> tensor, equal (`torch.equal`) to what the saved module computed with, and of the same type.

    Tensors that were not quantized are rounded to half precision.
    """
    return {name: stored.tensor() for name, stored in read_prompt_file(path).tensors.items()}


@torch.no_grad()
def pack(
    state: Mapping[str, Any], path: str | os.PathLike[str], config: QuantConfig | None = None, **metadata: Any
) -> None:
    """Write the prompts of a state dict to a prompt file. The method is found by the names of the tensors.

    A quantized state dict keeps the levels that it was trained with. A full-precision one is quantized here
    (post-training quantization).

    Args:
        state: a state dict of upstream's trainers or of ours.
        path: of the prompt file.
        config: quantize with these settings, in any case. By default a full-precision state dict is quantized with the
            bits of its method.
        metadata: as for `save`.
    """
    method, prompts = find_prompts(state)
    stored = {}
    for name, prompt in prompts.items():
        weight = prompt.weight.detach().cpu()
        check_finite({name: weight})
        fake = prompt.fake if config is None else None
        if fake is None and method.is_quantized(name):
            fake = FakeQuantize(weight, config or QuantConfig(bits=method.bits))
            fake.fit(weight)
        stored[name] = stored_tensor(name, weight, fake)
    write_prompt_file(path, stored, _about({"method": method.trainer, **metadata}))


def unpack(path: str | os.PathLike[str], kind: str) -> dict[str, Tensor]:
    """Return the tensors of a prompt file as a state dict of the unmodified upstream trainer.

    Args:
        path: of the prompt file.
        kind: the method whose trainer is to load it, in lower case: "coop", "maple", ...
    """
    get_method(kind)
    try:
        file = read_prompt_file(path)
        tensors = {name: stored.tensor() for name, stored in file.tensors.items()}
        return checkpoint_tensors(tensors, kind, file.about.get("method", ""))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def unpack_original(path: str | os.PathLike[str]) -> dict[str, dict[str, Tensor]]:
    """Return folder -> state dict of the checkpoints of the third-party trainer that learned a prompt file.

    Raises:
        UserError: the file does not name them, since it was not written by a launched run.
    """
    file = read_prompt_file(path)
    try:
        return original_checkpoints({name: stored.tensor() for name, stored in file.tensors.items()}, file.about)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _about(metadata: Mapping[str, Any]) -> dict[str, Any]:
    about = {"qprompt": __version__, **metadata}
    if isinstance(about.get("classnames"), (str, os.PathLike)):
        about["classnames"] = class_names(about["classnames"])
    return about


def full_tensor(name: str, weight: Tensor) -> StoredTensor:
    """Return `weight` as the file stores it in single precision; UserError if that cannot hold it."""
    values = weight.detach().float().cpu()
    if not bool(torch.isfinite(values).all()) or not torch.equal(values.to(weight), weight):
        raise UserError(f"{name} holds values that single precision cannot hold")
    return StoredTensor(tuple(weight.shape), str(weight.dtype).removeprefix("torch."), 32, values=values)


def stored_tensor(name: str, weight: Tensor, fake: FakeQuantize | None = None) -> StoredTensor:
    """Return `weight` as the file stores it: by the levels of `fake`, or in half precision."""
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UserError(f"{name} has type {dtype}, expected one of: {', '.join(DTYPES)}")
    if fake is not None and not fake.active:
        raise UserError(f"{name} has no levels yet: call qprompt.finish_ after training")
    if fake is None or fake.config.levels == 0:
        values = weight.detach().to(torch.float16).cpu()
        if not bool(torch.isfinite(values).all()):
            raise UserError(f"{name} holds values that half precision cannot hold")
        return StoredTensor(tuple(weight.shape), dtype, 16, values=values)
    coded = fake.encode(weight)
    indices = coded.indices.reshape(-1).to("cpu", torch.uint8)
    return StoredTensor(tuple(weight.shape), dtype, fake.config.bits, indices=indices, levels=coded.levels.cpu())
