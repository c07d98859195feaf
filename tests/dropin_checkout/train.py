"""A train.py like CoOp's, to test the launcher without a third-party checkout."""

import argparse

from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger
from yacs.config import CfgNode

import datasets.dots  # noqa: F401 (registers)
import trainers.habits  # noqa: F401 (registers)
import trainers.prompted  # noqa: F401 (registers)
import trainers.zoo  # noqa: F401 (registers)

SETTINGS = {
    "INPUT.SIZE": (8, 8),
    "INPUT.TRANSFORMS": ("normalize",),
    "DATASET.NAME": "Dots",
    "DATALOADER.NUM_WORKERS": 0,
    "OPTIM.NAME": "sgd",
    "OPTIM.LR": 0.1,
    "OPTIM.MAX_EPOCH": 2,
    "OPTIM.LR_SCHEDULER": "cosine",
    "OPTIM.WARMUP_EPOCH": 1,
    "OPTIM.WARMUP_TYPE": "constant",
    "DATALOADER.TRAIN_X.BATCH_SIZE": 6,
}


def main(args):
    cfg = get_cfg_default()
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.TRAINER.PROMPTED = CfgNode({"N_CTX": 4})
    cfg.merge_from_list([word for pair in SETTINGS.items() for word in pair])
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.DATASET.ROOT, cfg.OUTPUT_DIR, cfg.SEED, cfg.TRAINER.NAME = args.root, args.output_dir, 1, args.trainer
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR)
    print(f"__name__ {__name__}, trainer {cfg.TRAINER.NAME}, QUANT {cfg.TRAINER.get('QUANT')}")
    trainer = build_trainer(cfg)
    if args.test_only:
        trainer.test()
    elif args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    else:
        trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("root", "output-dir", "config-file", "trainer", "model-dir"):
        parser.add_argument(f"--{option}", default="")
    for flag in ("eval-only", "test-only", "catch"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--load-epoch", type=int)
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    try:
        main(args)
    except Exception:
        if not args.catch:
            raise
        print("something failed")
