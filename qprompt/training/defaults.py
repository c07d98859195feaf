"""The config keys that QPrompt adds to Dassl's, with their defaults."""

import dataclasses

from yacs.config import CfgNode

from qprompt.errors import UserError
from qprompt.prompts import methods, starting_bits
from qprompt.quantization.config import QuantConfig


def default_cfg(trainer: str = "") -> CfgNode:
    """Return Dassl's default config with QPrompt's keys. The engine must be active.

    Args:
        trainer: a quantized trainer starts with the bits of its method.
    """
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.QUANT.BITS = starting_bits(trainer)
    return cfg


def extend_cfg(cfg: CfgNode) -> None:
    """Add to Dassl's default config every key that the trainers and data sets of this project read."""
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base or new
    cfg.DATASET.LIST = ""  # ImageList only: a .csv, .tsv, .json or .jsonl file
    cfg.DATASET.LAYOUT = "auto"  # ImageFolder only: what its folders mean, such as class or split/class
    cfg.DATASET.CLASSNAMES = ""  # a file with other class names
    cfg.DATASET.TEMPLATE = ""  # another zero-shot template, with one {}
    cfg.DATASET.WRITE_CACHE = True  # store few-shot draws beside the data; --eval-only turns it off
    cfg.DATASET.DRAW = 0  # TinyWorld only: the number of the draw
    # Where images are resized, flipped and normalized: by the workers ("cpu"), or in batches on the "device". "auto":
    # on a GPU, if its pixels are Pillow's.
    cfg.INPUT.AUGMENT = "auto"
    cfg.DATALOADER.DECODE_CACHE_MB = -1  # decoded training images in memory: -1 a quarter of what is free; 0 off
    cfg.MODEL.BACKBONE.PATH = ""  # a file with a CLIP state dict or TorchScript archive
    cfg.MODEL.LOGIT_SCALE = 0.0  # 0: the model's own
    cfg.TEXT_MEMORY_MB = -1  # bound on what text encoding stores for backward: -1 half of the free GPU memory; 0 none
    cfg.DETERMINISTIC = False  # kernels that repeat their bits, where PyTorch has slower ones for that
    cfg.CUDNN_BENCHMARK = True  # cuDNN times its algorithms and takes the fastest; not with DETERMINISTIC
    cfg.CUDA_GRAPH = False  # launch the kernels of an encoder together in training steps
    cfg.TF32 = "default"  # of fp32 on a GPU: always, never, or default: in convolutions only, as PyTorch does
    cfg.FEATURE_CACHE = "auto"  # features of a frozen image branch: off, auto, epochs or "8 views"; docs/performance.md
    cfg.FEATURE_CACHE_MB = 2000  # of them on disk, beside the data; 0 none

    for method in methods():
        cfg.TRAINER[method.node] = CfgNode(dict(method.settings))
    cfg.TRAINER.NOISE = CfgNode({"SIGMA": 0.01, "RELATIVE": False})  # NoisyCoOp; RELATIVE: to the prompt's own spread
    add_quant_cfg(cfg)


def add_quant_cfg(cfg: CfgNode, trainer: str = "") -> None:
    """Add ``TRAINER.QUANT`` to a Dassl config: the fields of `QuantConfig` in upper case, with its defaults.

    Args:
        cfg: the config, not frozen.
        trainer: the quantized trainer; its method decides the default of BITS. Without it, BITS is 1.
    """
    cfg.TRAINER.QUANT = CfgNode({f.name.upper(): f.default for f in dataclasses.fields(QuantConfig)})
    cfg.TRAINER.QUANT.BITS = starting_bits(trainer)


def quant_config(cfg: CfgNode) -> QuantConfig:
    """Return the `QuantConfig` that ``TRAINER.QUANT`` describes; UserError names an invalid value."""
    if "QUANT" not in cfg.TRAINER:
        raise UserError("the config has no TRAINER.QUANT: call qprompt.add_quant_cfg(cfg) where it is extended.")
    try:
        return QuantConfig(**{name.lower(): value for name, value in cfg.TRAINER.QUANT.items()})
    except UserError as error:
        raise UserError(f"TRAINER.QUANT: {error}") from None
