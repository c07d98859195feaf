"""`load_`: a stored prompt back into a module."""

import copy
import os

import torch
from torch import nn

from qprompt.errors import UserError
from qprompt.prompt_files.format import read_prompt_file
from qprompt.prompts.method import LEARNER
from qprompt.quantization.api import quantized_parameters
from qprompt.quantization.parameters import require_module
from qprompt.quantization.state_dicts import load_state_dict_, original_key, plain_state_dict


@torch.no_grad()
def load_(module: nn.Module, path: str | os.PathLike[str]) -> list[str]:
    """Load the tensors of a prompt file into the parameters of the same names, in place.

    The module then computes with exactly the stored values (`torch.equal`). A quantized module fits its levels to
    them, and can be trained further.

    Args:
        module: any module, quantized or not. Names may lack the ``prompt_learner.`` that all names in the file have.
        path: of the prompt file.

    Returns:
        The names of the parameters that were loaded.

    Raises:
        UserError: the module lacks one of the tensors, or has it in another shape, or quantizes it with settings that
            cannot represent the stored values. Nothing is changed then.
    """
    require_module(module)
    stored = {name: tensor.tensor() for name, tensor in read_prompt_file(path).tensors.items()}
    own = plain_state_dict(module)
    if not stored.keys() <= own.keys() and all(name.startswith(LEARNER) for name in stored):
        stored = {name.removeprefix(LEARNER): value for name, value in stored.items()}
    for name, value in stored.items():
        if name not in own:
            some = ", ".join(list(own)[:8]) or "nothing"
            raise UserError(f"{path} holds {name}, which the module lacks; it has: {some}. Nothing was loaded.")
        if own[name].shape != value.shape:
            shapes = f"{tuple(value.shape)} in {path} and {tuple(own[name].shape)} in the module"
            raise UserError(f"{name} has shape {shapes}. Nothing was loaded.")
    before = copy.deepcopy(module.state_dict())
    state = dict(before)
    for name in stored.keys() & quantized_parameters(module).keys():  # fits its levels again
        prefix = original_key(name).removesuffix("original")
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
    load_state_dict_(module, {**state, **stored})
    now = plain_state_dict(module)
    for name, value in stored.items():
        if not torch.equal(now[name].cpu(), value.to(now[name].dtype)):
            module.load_state_dict(before)
            raise UserError(
                f"the module quantizes {name} in another way, so it cannot compute with the values in {path} exactly. "
                "Nothing was loaded: type qprompt.dequantize_(module) first, or quantize it as the prompt was."
            )
    return list(stored)
