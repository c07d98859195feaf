"""Features of a frozen image branch, computed once instead of once an epoch.

A cached loader gives the batches that the loader it replaces would give (same order, same use of the random
state), with features under "img" where there were pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# Entries of INPUT.TRANSFORMS that draw no random number. What is not listed counts as random.
DETERMINISTIC = frozenset({"normalize", "center_crop", "instance_norm"})


def is_deterministic(cfg: Any) -> bool:
    """Whether the transform for training gives the same tensor each time, so that its features can be kept."""
    loader = cfg.DATALOADER
    once = loader.K_TRANSFORMS == 1 and not loader.RETURN_IMG0
    return once and (cfg.INPUT.NO_TRANSFORM or DETERMINISTIC.issuperset(cfg.INPUT.TRANSFORMS))


def cached_loader(loader: DataLoader, encode: Callable[[Tensor], Tensor], device: torch.device) -> DataLoader:
    """A loader like `loader` whose "img" is ``encode(img)``, a (B, E) tensor on `device`.

    Each item is read and encoded once, at the first batch asked for. `encode` must not depend on what is trained.
    """
    return DataLoader(
        _Features(loader, encode, device),  # type: ignore[arg-type]
        batch_sampler=loader.batch_sampler,
        collate_fn=_as_it_is,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


class _Features(Dataset):
    """The data set of `loader`, encoded; whole batches are taken out by their indices at once."""

    def __init__(self, loader: DataLoader, encode: Callable[[Tensor], Tensor], device: torch.device):
        self.loader, self.encode, self.device = loader, encode, device
        self.tensors: dict[str, Tensor] | None = None
        self.lists: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name in ("loader", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.loader.dataset, name)  # data_source and the like

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        if self.tensors is None:
            self.tensors = self._encode_all()
        index = torch.as_tensor(indices, device=self.device)
        batch: dict[str, Any] = {key: value[index] for key, value in self.tensors.items()}
        return batch | {key: [value[i] for i in indices] for key, value in self.lists.items()}

    @torch.no_grad()
    def _encode_all(self) -> dict[str, Tensor]:
        """Encode all items in order. The loader has a generator of its own: the global random state stays."""
        ordered = DataLoader(
            self.loader.dataset,
            batch_size=self.loader.batch_size,
            num_workers=self.loader.num_workers,
            pin_memory=self.loader.pin_memory,
            generator=torch.Generator(),
        )
        parts: dict[str, list[Any]] = {}
        for batch in ordered:
            batch["img"] = self.encode(batch["img"].to(self.device))
            for key, value in batch.items():
                parts.setdefault(key, []).append(value)
        self.lists = {key: sum(map(list, value), []) for key, value in parts.items() if not _is_tensor(value[0])}
        return {key: torch.cat(value).to(self.device) for key, value in parts.items() if _is_tensor(value[0])}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
