"""Image features of a frozen image branch, computed once per run and cached for other runs (FEATURE_CACHE)."""

import logging
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from dassl.engine import TrainerX
from torch import Tensor

from qprompt.backbones import Identity
from qprompt.data.decode_cache import MB
from qprompt.data.images import pixels_of, read_image
from qprompt.data.viewing import reading_code
from qprompt.prompted_clip import PromptedCLIP, Prompts, encode_image
from qprompt.prompted_clip.onednn_linear import linear, onednn_is_faster
from qprompt.prompted_clip.text import use_reference
from qprompt.prompted_clip.transformer_layer import transformer_layer
from qprompt.runs.environment import decides_bits
from qprompt.training.feature_loaders import (
    EpochLoader,
    Store,
    cached_loader,
    is_deterministic,
    one_image_per_item,
    parse_feature_cache,
)
from qprompt.training.feature_store import FeatureFiles, description

log = logging.getLogger(__name__)


class CachedFeatures(TrainerX):
    """The part of `PromptTrainer` that replaces loaders of images by loaders of features."""

    model: PromptedCLIP
    backbone_identity: Identity
    precision: str
    computed: dict[str, Any]  # how, where the config leaves it open; metrics.json records it
    train_loader_x: Any
    deviations: list[str] = []  # from the published protocol; metrics.json records them

    @property
    def prompts_images(self) -> bool:
        """Whether image features depend on what is learned."""
        return False

    def autocast(self) -> Any:
        """Return the autocast context of this run's precision."""
        raise NotImplementedError

    def cache_features(self) -> None:
        """Encode images once if the image branch is frozen.

        Always for testing; for training if no transform is random, or as FEATURE_CACHE says.
        """
        kind, views = parse_feature_cache(self.cfg.FEATURE_CACHE)
        if self.prompts_images or kind == "off":
            return
        encode, store = self.encode_images, self.feature_store()
        for name in ("val_loader", "test_loader"):
            if getattr(self, name) is not None:
                setattr(self, name, cached_loader(getattr(self, name), encode, self.device, store))
        training = self.train_loader_x
        if is_deterministic(self.cfg):
            log.info("No transform is random and the image branch is frozen: image features are computed once")
            self.train_loader_x = cached_loader(training, encode, self.device, store)
        elif kind == "epochs" and one_image_per_item(self.cfg):
            log.info("Image features of each epoch's views are cached")
            self.train_loader_x = EpochLoader(training, encode, self.device, store)
        elif kind == "views" and one_image_per_item(self.cfg):
            self.deviations = [f"training images are {views} fixed views each, not new ones every epoch"]
            log.warning(
                "DEVIATION from the protocol: %s (FEATURE_CACHE %s)", self.deviations[0], self.cfg.FEATURE_CACHE
            )
            self.train_loader_x = cached_loader(training, encode, self.device, store, views)

    def feature_store(self) -> Store | None:
        """Return where features outlive the run: beside the data. None with FEATURE_CACHE_MB 0."""
        if self.cfg.FEATURE_CACHE_MB <= 0:
            return None
        files = FeatureFiles(Path(self.cfg.DATASET.ROOT).expanduser() / ".features", self.cfg.FEATURE_CACHE_MB * MB)
        packages = torch.__version__, torchvision.__version__, PIL.__version__
        library = self.device.type == "cpu" and onednn_is_faster()
        reader = pixels_of(self.cfg.DATASET.NAME), description((read_image, *reading_code()))
        encoder = description((encode_image, transformer_layer, linear, type(self.model.clip_model)))  # their files
        how = self.precision, self.device.type, use_reference(), library, reader, encoder, decides_bits(self.device)
        inputs = {**self.cfg.INPUT, "AUGMENT": self.computed["augment"]}
        return Store(files, self.backbone_identity.sha256, inputs, how, packages)

    def encode_images(self, image: Tensor) -> Tensor:
        """Return the features (B, E) of images (B, 3, H, W)."""
        with self.autocast():
            return self.model.image_features(image, Prompts())
