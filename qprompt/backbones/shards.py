"""Weights that are split over several files, with an index that says which tensor is in which file."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from qprompt.backbones.weights import read_content
from qprompt.errors import UserError

INDEX = ".index.json"  # model.safetensors.index.json, pytorch_model.bin.index.json


def read_shards(index: Path) -> dict[str, Tensor]:
    """Return the tensors that an index of Hugging Face names, from the files beside it.

    Raises:
        UserError: the index is damaged, or files or tensors that it names do not exist.
    """
    places = _weight_map(index)
    names = sorted(set(places.values()))
    missing = [name for name in names if not index.with_name(name).is_file()]
    if missing:
        raise UserError(
            f"{index} names {len(names)} files with weights, of which {len(missing)} do not exist: "
            f"{', '.join(missing[:3])}. Put them beside it."
        )
    state: dict[str, Tensor] = {}
    for name in names:
        content: Any = read_content(index.with_name(name))
        for tensor in (tensor for tensor, file in places.items() if file == name):
            if not isinstance(content, dict) or not isinstance(content.get(tensor), Tensor):
                raise UserError(f"{index.with_name(name)} has no tensor {tensor}, which {index.name} names.")
            state[tensor] = content[tensor]
    return state


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{index} can't be read: {error}") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} is not an index of weights: expected an object with weight_map, tensor -> file.")
    for file in places.values():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise UserError(f"{index} names the file {file!r}, expected names of files beside it.")
    return places
