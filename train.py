"""Train or evaluate a prompt learner: the command line of CoOp and MaPLe.

  python train.py --trainer QCoOp --dataset-config-file configs/datasets/tiny_world.yaml \\
      --config-file configs/trainers/QCoOp/tiny.yaml --output-dir output/first --seed 1 \\
      DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base

  python train.py --trainer QCoOp ... --eval-only --model-dir output/first --load-epoch 200 \\
      --output-dir output/first_new DATASET.SUBSAMPLE_CLASSES new

A mistake in what was typed ends with one line and exit code 2, before any training.
"""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from qprompt.errors import AlreadyFinished, UserError, did_you_mean
from qprompt.io.files import disk_errors_named
from qprompt.io.logs import show_logs

HERE = Path(__file__).resolve().parent


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", default="", help="data root: the folder that holds the data sets' folders")
    add("--output-dir", default="", help="where log.txt, metrics.json and checkpoints go (default: ./output)")
    add("--resume", default="", metavar="DIR", help="resume the run whose checkpoints are in DIR")
    add("--seed", type=int, help="0 or more fixes all random numbers (default: the config's; negative: not fixed)")
    add("--source-domains", nargs="+", help="source domains of a domain generalization data set")
    add("--target-domains", nargs="+", help="target domains of a domain generalization data set")
    add("--transforms", nargs="+", help="image transforms for training, e.g. random_resized_crop random_flip normalize")
    add("--config-file", default="", help="configs/trainers/<Trainer>/<name>.yaml")
    add("--dataset-config-file", default="", help="configs/datasets/<name>.yaml")
    add("--trainer", default="", help="ZeroshotCLIP, CoOp, QCoOp, MaPLe, QMaPLe, ...")
    add("--backbone", default="", help='"tiny" (embedded), ViT-B/16, RN50, ... (MODEL.BACKBONE.PATH: your own file)')
    add("--head", default="", help="name of the head (for compatibility with Dassl)")
    add("--eval-only", action="store_true", help="evaluate what --model-dir holds")
    add("--model-dir", default="", metavar="DIR", help="output folder of the training run to evaluate")
    add(
        "--load-epoch",
        type=_epoch,
        metavar="N|last|all",
        help="checkpoint to evaluate (default: the best); last: that of the finished training; all: each in turn",
    )
    add("--skip-finished", action="store_true", help="exit 0 if --output-dir holds this run, finished")
    add("--no-train", action="store_true", help="build everything, train nothing")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, e.g. DATASET.NUM_SHOTS 16")
    return parser.parse_args(argv)


def _epoch(text):
    return text if text in ("last", "all") else int(text)


def requested_trainer(args):
    """Return the trainer that the arguments or the config files name; later ones win, as in `setup_cfg`."""
    from qprompt.runs import config

    files = filter(None, (args.config_file, args.dataset_config_file))
    options = dict(zip(args.opts[::2], args.opts[1::2], strict=False))
    named = options.get("TRAINER.NAME") or args.trainer
    return named or next(filter(None, (config.value_in_file(path, "TRAINER.NAME") for path in files)), "")


def setup_cfg(args):
    """Return the config of this run, and the defaults that it started from."""
    from qprompt.runs import config
    from qprompt.training.defaults import default_cfg

    cfg, defaults = default_cfg(requested_trainer(args)), default_cfg()
    for path in (args.dataset_config_file, args.config_file):
        if path:
            config.merge_file(cfg, path)
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
    }
    for key, value in flags.items():
        if value not in (None, ""):
            config.set_key(cfg, key, value, "the command line")
    if args.eval_only:
        cfg.DATASET.WRITE_CACHE = False
    config.merge_options(cfg, args.opts)
    return cfg, defaults


def check(args, cfg):
    """Refuse what cannot run, before any long work."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from qprompt.backbones import check_backbone
    from qprompt.training.defaults import quant_config
    from qprompt.training.project import learns

    _registered(TRAINER_REGISTRY, cfg.TRAINER.NAME, "trainer", "--trainer")
    dataset_class = _registered(DATASET_REGISTRY, cfg.DATASET.NAME, "data set", "--dataset-config-file or DATASET.NAME")
    if cfg.DATASET.SUBSAMPLE_CLASSES not in ("all", "base", "new"):
        raise UserError(f"DATASET.SUBSAMPLE_CLASSES is all, base or new, got {cfg.DATASET.SUBSAMPLE_CLASSES!r}.")
    quant_config(cfg)
    check_backbone(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH)
    if not cfg.DATASET.ROOT and getattr(dataset_class, "generates_images", False):
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cfg.DATASET.ROOT = os.path.join(os.path.expanduser(cache), "qprompt")
    elif not cfg.DATASET.ROOT:
        raise UserError(f"no data root: type --root DATA, the folder that holds {cfg.DATASET.NAME}'s folder.")
    elif not os.path.isdir(os.path.expanduser(cfg.DATASET.ROOT)) and not getattr(
        dataset_class, "generates_images", False
    ):
        raise UserError(f"the data root {cfg.DATASET.ROOT!r} is not there: --root names the folder of the data sets.")
    if args.eval_only and learns(cfg.TRAINER.NAME) and not args.model_dir:
        raise UserError("--eval-only needs --model-dir DIR, the output folder of the training run to evaluate.")
    if args.model_dir and not os.path.isdir(args.model_dir):
        raise UserError(f"--model-dir {args.model_dir!r} is not a folder: it is the --output-dir of a training run.")
    if args.load_epoch == "last" and args.model_dir:
        args.load_epoch = last_epoch(args.model_dir)
    if args.resume and not os.path.isdir(args.resume):
        raise UserError(f"--resume {args.resume!r} is not a folder: it is the --output-dir of an unfinished run.")


def _registered(registry, name, what, how):
    known = sorted(registry.registered_names())
    if not name:
        raise UserError(f"no {what} given: {how} names one of {', '.join(known)}.")
    if name not in known:
        raise UserError(f"no {what} {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}.")
    return registry.get(name)


def print_run(args, cfg, engine):
    from dassl.utils import collect_env_info

    print(engine)
    print("***************\n** Arguments **\n***************")
    for key, value in sorted(vars(args).items()):
        print(f"{key}: {value}")
    print(f"************\n** Config **\n************\n{cfg}")
    print(f"Collecting env info ...\n** System info **\n{collect_env_info()}\n")


def checkpoint_epochs(model_dir):
    """Return the epochs of all checkpoints of a training run, in order."""
    found = {int(p.name.rpartition("-")[2]) for p in Path(model_dir).glob("*/model.pth.tar-*[0-9]")}
    if not found:
        raise UserError(f"{model_dir} holds no checkpoint (no */model.pth.tar-N in it).")
    return sorted(found)


def last_epoch(model_dir):
    """Return the epoch of the last checkpoint of a training run, which must be finished (upstream's do not say)."""
    from qprompt.runs.folder import is_unfinished

    if is_unfinished(Path(model_dir)):
        raise UserError(f"the training run in {model_dir} is not finished: start it again, it resumes.")
    return checkpoint_epochs(model_dir)[-1]


def evaluate(trainer, evaluations, args):
    """Test once, or once per checkpoint. Return what metrics.json records besides the results."""
    if not args.model_dir:
        trainer.test()
        return {}
    record = {"model_dir": args.model_dir, "load_epoch": args.load_epoch}
    if args.load_epoch != "all":
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
        return record
    curve = []
    for epoch in checkpoint_epochs(args.model_dir):
        trainer.load_model(args.model_dir, epoch=epoch)
        trainer.test()
        curve.append({"epoch": epoch, **evaluations.last})
    return {**record, "curve": curve}


def fp16_prompt(trainer):
    """Return the stored size of a prompt that is not quantized: two bytes per learned number."""
    learned = [p for model in trainer._models.values() for p in model.parameters() if p.requires_grad]
    return {"payload_bytes": 2 * sum(p.numel() for p in learned), "bits": 16}


@contextlib.contextmanager
def logging_to(output_dir):
    """Replace sys.stdout by Dassl's logger; restore it and close the log file afterwards."""
    from dassl.utils import setup_logger

    console = sys.stdout
    setup_logger(output_dir)
    logger: Any = sys.stdout
    try:
        yield
    finally:
        sys.stdout = console
        logger.file.close()  # not logger.close(): that of the real Dassl closes the console too,
        logger.console = logger.file  # which it would also do once it is collected


def run(args, cfg, defaults, engine):
    """Build the trainer, train or evaluate, write metrics.json."""
    import torch
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    from qprompt.runs.finish import Evaluations, finish
    from qprompt.training.project import learns

    started = time.monotonic()
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    if torch.cuda.is_available() and cfg.USE_CUDA:
        torch.backends.cudnn.benchmark = True
    print_run(args, cfg, engine)
    trainer = build_trainer(cfg)
    evaluations = Evaluations(trainer)
    if args.eval_only or not learns(cfg.TRAINER.NAME):
        mode, more = "eval", evaluate(trainer, evaluations, args)
    elif args.no_train:
        return
    else:
        trainer.train()
        mode, more = "train", {"prompt": getattr(trainer, "prompt_record", None) or fp16_prompt(trainer)}
    if getattr(getattr(trainer, "guard", None), "skipped", 0):
        more["skipped_steps"] = trainer.guard.skipped
    if deviations := getattr(trainer, "deviations", None):
        more["deviations"] = deviations
    path = finish(
        cfg.OUTPUT_DIR, trainer, mode, evaluations.last, started, engine=str(engine), defaults=defaults, **more
    )
    print(f"Wrote {path}")


def main(argv=None):
    args = parse_args(argv)
    show_logs()
    try:
        from qprompt.engine import activate

        engine = activate()
        from qprompt.runs.folder import claim
        from qprompt.runs.identity import RunSettings
        from qprompt.training.project import register_project

        register_project(HERE)

        cfg, defaults = setup_cfg(args)
        check(args, cfg)
        cfg.freeze()
        mode = "eval" if args.eval_only else "train"
        settings = RunSettings.of(cfg, defaults, mode, args.model_dir, args.load_epoch)
        with disk_errors_named(), claim(cfg.OUTPUT_DIR, settings), logging_to(cfg.OUTPUT_DIR):
            run(args, cfg, defaults, engine)
    except UserError as error:
        if args.skip_finished and isinstance(error, AlreadyFinished):
            print(f"Skipped: {args.output_dir or 'output'} holds this run, finished.")
            return 0
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: interrupted. The same command resumes the run at its last checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
