"""From the command line of train.py to the config of a run."""

import argparse
import os

from yacs.config import CfgNode

from qprompt.backbones import check_backbone
from qprompt.errors import UserError
from qprompt.runs import config
from qprompt.runs.project import find_file
from qprompt.training.config_keys import check_values
from qprompt.training.defaults import default_cfg, quant_config
from qprompt.training.early_checks import check_name, requested
from qprompt.training.project import learns


def setup_cfg(args: argparse.Namespace) -> tuple[CfgNode, CfgNode]:
    """Return the config of a run, and the defaults that it started from. The engine must be active.

    Raises:
        UserError: A file or an option has an unknown key or a value of a wrong type.
    """
    config.check_pairs(args.opts)
    options = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    cfg, defaults = default_cfg(requested(args, options, "TRAINER.NAME", args.trainer)), default_cfg()
    for path in (args.dataset_config_file, args.config_file):
        if path:
            config.merge_file(cfg, str(find_file(path)))
    flags = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "SEED": args.seed,
        "DATASET.SOURCE_DOMAINS": args.source_domains,
        "DATASET.TARGET_DOMAINS": args.target_domains,
        "INPUT.TRANSFORMS": args.transforms,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.HEAD.NAME": args.head,
        "DETERMINISTIC": args.deterministic or None,
    }
    for key, value in flags.items():
        if value not in (None, ""):
            config.set_key(cfg, key, value, "the command line")
    if args.eval_only:
        cfg.DATASET.WRITE_CACHE = False
    config.merge_options(cfg, args.opts)
    check_values(cfg, defaults)
    return cfg, defaults


def check(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Refuse what cannot run, before any long work. Complete the data root of a data set that draws its images.

    Raises:
        UserError: A name is not registered, a value is not valid, or an argument is missing.
    """
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    check_name(cfg.TRAINER.NAME, sorted(TRAINER_REGISTRY.registered_names()), "trainer", "--trainer")
    how = "--dataset-config-file or DATASET.NAME"
    check_name(cfg.DATASET.NAME, sorted(DATASET_REGISTRY.registered_names()), "data set", how)
    quant_config(cfg)
    check_backbone(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH)
    generates = getattr(DATASET_REGISTRY.get(cfg.DATASET.NAME), "generates_images", False)
    if not cfg.DATASET.ROOT and generates:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cfg.DATASET.ROOT = os.path.join(os.path.expanduser(cache), "qprompt")
    elif not cfg.DATASET.ROOT:
        raise UserError(f"no data root: type --root DATA, the folder that holds {cfg.DATASET.NAME}'s folder.")
    elif not os.path.isdir(os.path.expanduser(cfg.DATASET.ROOT)) and not generates:
        raise UserError(f"the data root {cfg.DATASET.ROOT!r} does not exist: --root names the folder of the data sets.")
    if args.eval_only and learns(cfg.TRAINER.NAME) and not args.model_dir:
        raise UserError("--eval-only needs --model-dir DIR, the output folder of the training run to evaluate.")
