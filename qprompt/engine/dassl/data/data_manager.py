"""Data loaders: batches of images from a data set.

Random numbers: per epoch, a loader draws the same numbers from the global torch generator as Dassl does, one seed for
its workers and, if it shuffles, one for the order. Dassl augments an image with the current random state of the worker
that loads it. Here each (epoch, image) pair has its own random state, seeded from the epoch's worker seed. Batches
therefore do not depend on the number of workers, and their order is that of Dassl with any NUM_WORKERS above 0.
"""

# ruff: noqa: NPY002 (set_random_seed seeds numpy's global generator)

import random
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torchvision.transforms as T
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from qprompt.errors import UserError
from qprompt.io.cores import available_cores
from qprompt.io.random_state import random_state_kept

from ..utils import read_image
from .datasets import build_dataset
from .samplers import build_sampler
from .transforms import INTERPOLATION_MODES, build_transform


@contextmanager
def _own_random_state(*seed):
    """Seed Python, numpy and torch (CPU) from the integers `seed` inside the block; restore their states after it."""
    words = np.random.SeedSequence([s % 2**64 for s in seed]).generate_state(4)
    with random_state_kept(cuda=False):
        random.seed(int(words[0]))
        np.random.seed(words[1])
        # not torch.manual_seed, which also seeds CUDA
        torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))
        yield


class EpochDataLoader(DataLoader):
    """A data loader that sets `epoch_seed` of its data set at the start of each epoch."""

    def __iter__(self):
        if hasattr(self.dataset, "epoch_seed"):
            state = torch.get_rng_state()
            self.dataset.epoch_seed = int(torch.empty((), dtype=torch.int64).random_())
            if self._iterator is None:
                # DataLoader is about to draw this number for its new workers. It does not draw it for persistent
                # workers; having drawn it here gives both the same order of images.
                torch.set_rng_state(state)
        return super().__iter__()


def _num_workers(cfg):
    """Return NUM_WORKERS, limited to the processors that this process may use: more would wait for each other."""
    return min(cfg.DATALOADER.NUM_WORKERS, available_cores())


def build_data_loader(
    cfg,
    sampler_type="SequentialSampler",
    data_source=None,
    batch_size=64,
    n_domain=0,
    n_ins=2,
    tfm=None,
    is_train=True,
    dataset_wrapper=None,
):
    """Return a loader of batches: dicts of "img" (B, 3, H, W) and "label", "domain", "impath", "index" (B each).

    In training the last, smaller batch of an epoch is dropped unless it is the only one.

    Args:
        cfg: the config.
        sampler_type: name of a sampler (see `dassl.data.samplers`).
        data_source: list of `Datum`.
        batch_size: B.
        n_domain: domains per batch, for RandomDomainSampler.
        n_ins: images per class, for RandomClassSampler.
        tfm: transform, or list of transforms.
        is_train: whether the loader is for training.
        dataset_wrapper: class to use instead of `DatasetWrapper`.

    Raises:
        UserError: the data set is empty, or too small for one batch.
    """
    if not data_source:
        raise UserError(f"the {'training' if is_train else 'evaluation'} set of {cfg.DATASET.NAME} has no image")
    sampler = build_sampler(
        sampler_type, cfg=cfg, data_source=data_source, batch_size=batch_size, n_domain=n_domain, n_ins=n_ins
    )
    wrapper = dataset_wrapper or DatasetWrapper
    engines_own = getattr(wrapper, "__getitem__", None) is DatasetWrapper.__getitem__
    workers = _num_workers(cfg)
    loader = EpochDataLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        # Starting a worker takes up to 0.1 s. A third-party data set may use the seed that a new worker gets.
        persistent_workers=is_train and workers > 0 and engines_own,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )
    if len(loader) == 0:
        raise UserError(f"{sampler_type} gives no full batch of {batch_size} from {len(data_source)} images")
    return loader


class DataManager:
    """The data set named by the config, and a data loader per split.

    Attributes:
        dataset: the data set.
        train_loader_x: labelled training data.
        train_loader_u: unlabelled training data, or None.
        val_loader: validation data, or None.
        test_loader: test data.
        num_classes: number of classes.
        num_source_domains: number of DATASET.SOURCE_DOMAINS.
        lab2cname: class name by label.
    """

    def __init__(self, cfg, custom_tfm_train=None, custom_tfm_test=None, dataset_wrapper=None):
        dataset = build_dataset(cfg)
        if custom_tfm_train is None:
            tfm_train = build_transform(cfg, is_train=True)
        else:
            print("* Using custom transform for training")
            tfm_train = custom_tfm_train
        if custom_tfm_test is None:
            tfm_test = build_transform(cfg, is_train=False)
        else:
            print("* Using custom transform for testing")
            tfm_test = custom_tfm_test

        def train_loader(items, node):
            return build_data_loader(
                cfg,
                sampler_type=node.SAMPLER,
                data_source=items,
                batch_size=node.BATCH_SIZE,
                n_domain=node.N_DOMAIN,
                n_ins=node.N_INS,
                tfm=tfm_train,
                is_train=True,
                dataset_wrapper=dataset_wrapper,
            )

        def test_loader(items):
            return build_data_loader(
                cfg,
                sampler_type=cfg.DATALOADER.TEST.SAMPLER,
                data_source=items,
                batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
                tfm=tfm_test,
                is_train=False,
                dataset_wrapper=dataset_wrapper,
            )

        train_x, train_u = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TRAIN_U
        self.dataset = dataset
        self.train_loader_x = train_loader(dataset.train_x, train_x)
        self.train_loader_u = None
        if dataset.train_u:
            self.train_loader_u = train_loader(dataset.train_u, train_x if train_u.SAME_AS_X else train_u)
        self.val_loader = test_loader(dataset.val) if dataset.val else None
        self.test_loader = test_loader(dataset.test)

        self._num_classes = dataset.num_classes
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self._lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self):
        return self._num_classes

    @property
    def num_source_domains(self):
        return self._num_source_domains

    @property
    def lab2cname(self):
        return self._lab2cname

    def show_dataset_summary(self, cfg):
        """Print the name, the domains and the numbers of classes and images."""
        rows = [("Dataset", cfg.DATASET.NAME)]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(("Source", cfg.DATASET.SOURCE_DOMAINS))
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(("Target", cfg.DATASET.TARGET_DOMAINS))
        rows.append(("# classes", f"{self.num_classes:,}"))
        for split in ("train_x", "train_u", "val", "test"):
            items = getattr(self.dataset, split)
            if items:
                rows.append((f"# {split}", f"{len(items):,}"))
        rows = [(str(name), str(value)) for name, value in rows]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        rule = "  ".join("-" * width for width in widths)
        print(rule, *(f"{name:<{widths[0]}}  {value}" for name, value in rows), rule, sep="\n")


class DatasetWrapper(TorchDataset):
    """A data set of dicts: the transformed image under "img", and "label", "domain", "impath", "index".

    With DATALOADER.K_TRANSFORMS above 1 a training "img" is a list of that many augmented images. With
    DATALOADER.RETURN_IMG0 "img0" is the image without augmentation.

    Args:
        cfg: the config.
        data_source: list of `Datum`.
        transform: a transform; a list of transforms gives "img", "img2", ...; None gives PIL images.
        is_train: whether to augment with a random state per (epoch, image), and K_TRANSFORMS times.
    """

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        self._epoch_seed = torch.zeros((), dtype=torch.int64)
        if cfg.DATALOADER.NUM_WORKERS:
            self._epoch_seed.share_memory_()  # with persistent workers
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"Cannot augment the image {self.k_tfm} times because transform is None")

        interpolation = INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]
        to_tensor = [T.Resize(cfg.INPUT.SIZE, interpolation=interpolation), T.ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            to_tensor.append(T.Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD))
        self.to_tensor = T.Compose(to_tensor)

    @property
    def epoch_seed(self):
        """The seed of the epoch; it seeds the augmentation of each image, together with the image's index."""
        return int(self._epoch_seed)

    @epoch_seed.setter
    def epoch_seed(self, seed):
        self._epoch_seed.fill_(seed)

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, idx):
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        img0 = self.read_image(item.impath)
        if self.transform is None:
            output["img"] = img0
        else:
            several = isinstance(self.transform, (list, tuple))
            with _own_random_state(self.epoch_seed, idx) if self.is_train else nullcontext():
                for i, tfm in enumerate(self.transform if several else [self.transform], start=1):
                    output["img" if i == 1 else f"img{i}"] = self._transform_image(tfm, img0)
        if self.return_img0:
            output["img0"] = self.to_tensor(img0)
        return output

    def read_image(self, path):
        """Hook: return the image file as an RGB PIL image."""
        return read_image(path)

    def _transform_image(self, tfm, img0):
        images = [tfm(img0) for _ in range(self.k_tfm)]
        return images[0] if len(images) == 1 else images
