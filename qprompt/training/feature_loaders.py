"""Loaders that yield image features of a frozen image branch in place of images.

A cached loader yields the batches of the loader that it replaces (same order, same use of the random state), with
features under "img" in place of pixels.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qprompt.errors import UserError
from qprompt.io.random_state import RandomState
from qprompt.io.transfer import pinned, send
from qprompt.training.feature_store import FeatureFiles, description, key_of

# Entries of INPUT.TRANSFORMS that draw no random number. What is not listed counts as random.
DETERMINISTIC = frozenset({"normalize", "center_crop", "instance_norm"})
Encode = Callable[[Tensor], Tensor]


def parse_feature_cache(text: str) -> tuple[str, int]:
    """Return the kind of FEATURE_CACHE (off, auto, epochs or views) and its number of views."""
    views = re.fullmatch(r"(\d+) views?", text)
    if views and int(views[1]):
        return "views", int(views[1])
    if text not in ("off", "auto", "epochs"):
        raise UserError(f"FEATURE_CACHE is off, auto, epochs or a number of views such as '8 views'; got {text!r}.")
    return text, 1


def one_image_per_item(cfg: Any) -> bool:
    """Return whether an item of the training set is one image, and not several views of it."""
    return cfg.DATALOADER.K_TRANSFORMS == 1 and not cfg.DATALOADER.RETURN_IMG0


def is_deterministic(cfg: Any) -> bool:
    """Return whether the training transform gives the same tensor each time, so its features can be cached."""
    fixed = cfg.INPUT.NO_TRANSFORM or DETERMINISTIC.issuperset(cfg.INPUT.TRANSFORMS)
    return one_image_per_item(cfg) and fixed


def cached_loader(
    loader: DataLoader, encode: Encode, device: torch.device, store: "Store | None" = None, views: int = 1
) -> DataLoader:
    """Return a loader like `loader` whose "img" is ``encode(img)``, a (B, E) tensor on `device`.

    Each item is read and encoded once, when the first batch is requested, or found in `store`.

    Args:
        loader: of images.
        encode: images (B, 3, H, W) -> features (B, E); it must not depend on what is trained.
        device: of the features.
        store: of other runs' features.
        views: how often each item is drawn and encoded; a batch takes any of its views.
    """
    return DataLoader(
        _Features(loader, encode, device, store, views),
        batch_sampler=loader.batch_sampler,
        collate_fn=_identity,
    )


class Store:
    """Feature files, and what features depend on besides the images and their order.

    Args:
        files: where features are stored.
        depends_on: the backbone's hash, the config of the transform, the precision, versions, ...
    """

    def __init__(self, files: FeatureFiles, *depends_on: Any):
        self.files, self.depends_on = files, depends_on

    def key(self, loader: DataLoader, *more: Any) -> str | None:
        """Return a key for all items of `loader`; None if they are not files or their transform cannot be described."""
        data = loader.dataset
        try:
            items = [(item.impath, item.label, item.domain) for item in data.data_source]  # type: ignore[attr-defined]
            status = [os.stat(path) for path, _, _ in items]
        except (AttributeError, OSError):
            return None
        identity = [(s.st_size, s.st_mtime_ns, s.st_ino) for s in status]
        how = description((type(data).__mro__, getattr(data, "transform", None), getattr(data, "is_train", None)))
        return key_of([*self.depends_on, items, identity, how, loader.batch_size, *more]) if how else None


def _identity(batch: Any) -> Any:
    return batch


class _Features(Dataset):
    """The encoded data set of `loader`; a batch is one indexing operation."""

    def __init__(self, loader: DataLoader, encode: Encode, device: torch.device, store: Store | None, views: int):
        self.loader, self.encode, self.device, self.store, self.views = loader, encode, device, store, views
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
            self._load()
        assert self.tensors is not None
        index = row = torch.as_tensor(indices)
        if self.views > 1:
            row = index + len(self) * torch.randint(self.views, (len(indices),))
        batch: dict[str, Any] = {"img": self.tensors["img"].index_select(0, send(row, self.device))}
        batch |= {key: pinned(value[index], self.device) for key, value in self.tensors.items() if key != "img"}
        return batch | {key: [value[i] for i in indices] for key, value in self.lists.items()}

    def _load(self) -> None:
        seed = torch.initial_seed() if self.views > 1 else 0
        key = self.store.key(self.loader, self.views, seed) if self.store else None
        kept = self.store.files.read(key) if self.store and key else None
        if kept is None:
            generator = torch.Generator().manual_seed(seed)
            kept = self._encode_all(generator)
            for _ in range(self.views - 1):
                kept["img"] = torch.cat([kept["img"], self._encode_all(generator)["img"]])
            if self.store and key:
                self.store.files.write(key, kept)
        self.lists = {name: value for name, value in kept.items() if not isinstance(value, Tensor)}
        self.tensors = {name: value for name, value in kept.items() if isinstance(value, Tensor)}
        self.tensors["img"] = self.tensors["img"].to(self.device)

    @torch.no_grad()
    def _encode_all(self, generator: torch.Generator) -> dict[str, Any]:
        """Encode all items in order, with a generator of its own: the global random state does not change."""
        data, loader = self.loader.dataset, self.loader
        if self.views > 1 and hasattr(data, "epoch_seed"):  # the engine's augmentation is seeded by it
            data.epoch_seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
        ordered = DataLoader(
            data,
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            generator=generator,
        )
        parts: dict[str, list[Any]] = {}
        for batch in ordered:
            batch["img"] = self.encode(batch["img"].to(self.device, non_blocking=True))
            for key, value in batch.items():
                parts.setdefault(key, []).append(value if isinstance(value, Tensor) else list(value))
        return {key: torch.cat(v).cpu() if isinstance(v[0], Tensor) else sum(v, []) for key, v in parts.items()}


class EpochLoader:
    """A loader like `loader` with features in place of random views; an epoch is drawn before its first batch.

    An epoch with a known random state, items and settings comes from `store`, and the random state afterwards is the
    one that drawing it leaves: runs with the same seed share their epochs.
    """

    def __init__(self, loader: DataLoader, encode: Encode, device: torch.device, store: Store | None):
        self.loader, self.encode, self.device, self.store = loader, encode, device, store

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name in ("loader", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        loader, state = self.loader, RandomState.current(cuda=False).to_numbers()
        shape = type(loader.sampler).__name__, loader.num_workers, loader.drop_last
        key = self.store.key(loader, "epoch", shape, state) if self.store else None
        kept = self.store.files.read(key) if self.store and key else None
        if kept is None:
            batches = []
            for batch in loader:
                with torch.no_grad():
                    batches.append(batch | {"img": self.encode(batch["img"].to(self.device, non_blocking=True))})
            features = torch.cat([batch["img"] for batch in batches]).cpu().split([len(b["img"]) for b in batches])
            batches = [batch | {"img": part.clone()} for batch, part in zip(batches, features, strict=True)]
            kept = {"batches": batches, "state": RandomState.current(cuda=False).to_numbers()}
            if self.store and key:
                self.store.files.write(key, kept)
        RandomState.from_numbers(kept["state"]).restore()
        for batch in kept["batches"]:
            label = pinned(batch["label"], self.device)
            yield batch | {"img": send(batch["img"], self.device), "label": label}
