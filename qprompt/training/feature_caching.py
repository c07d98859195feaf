"""Image features of a frozen image branch, kept in a run and for other runs (FEATURE_CACHE)."""

from pathlib import Path

import PIL
import torch
import torchvision

from qprompt.data.decode_cache import MB
from qprompt.prompted_clip import Prompts
from qprompt.prompted_clip.products import onednn_is_faster
from qprompt.prompted_clip.text import use_reference
from qprompt.training.feature_loaders import (
    EpochLoader,
    Store,
    cached_loader,
    is_deterministic,
    one_image_an_item,
    parse_feature_cache,
)
from qprompt.training.feature_store import FeatureFiles


class KeptFeatures:
    """The part of a `PromptTrainer` that has loaders give features where they gave images."""

    prompts_images = False  # whether image features depend on what is learned
    deviations: list[str] = []  # from the published protocol, as metrics.json says

    def keep_features(self):
        """Encode images once where the image branch is frozen: always for testing, for training as FEATURE_CACHE says
        and where no transform is random."""
        kind, views = parse_feature_cache(self.cfg.FEATURE_CACHE)
        if self.prompts_images or kind == "off":
            return
        encode, store = self.encode_images, self.feature_store()
        for name in ("val_loader", "test_loader"):
            if getattr(self, name) is not None:
                setattr(self, name, cached_loader(getattr(self, name), encode, self.device, store))
        training = self.train_loader_x
        if is_deterministic(self.cfg):
            print("No transform is random and the image branch is frozen: image features are computed once")
            self.train_loader_x = cached_loader(training, encode, self.device, store)
        elif kind == "epochs" and one_image_an_item(self.cfg):
            print("Image features of each epoch's views are kept")
            self.train_loader_x = EpochLoader(training, encode, self.device, store)
        elif kind == "views" and one_image_an_item(self.cfg):
            self.deviations = [f"training images are {views} fixed views each, not new ones every epoch"]
            print(f"DEVIATION from the protocol: {self.deviations[0]} (FEATURE_CACHE {self.cfg.FEATURE_CACHE})")
            self.train_loader_x = cached_loader(training, encode, self.device, store, views)

    def feature_store(self):
        """Where features outlive the run: beside the data; None with FEATURE_CACHE_MB 0."""
        if self.cfg.FEATURE_CACHE_MB <= 0:
            return None
        files = FeatureFiles(Path(self.cfg.DATASET.ROOT).expanduser() / ".features", self.cfg.FEATURE_CACHE_MB * MB)
        packages = torch.__version__, torchvision.__version__, PIL.__version__
        library = self.device.type == "cpu" and onednn_is_faster()
        how = self.precision, self.device.type, use_reference(), library
        return Store(files, self.backbone_sha256, dict(self.cfg.INPUT), how, packages)

    def encode_images(self, image):
        with self.autocast():
            return self.model.image_features(image, Prompts())
