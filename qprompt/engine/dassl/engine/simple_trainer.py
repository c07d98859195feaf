"""``SimpleTrainer``: data, model, evaluation and checkpoints according to the config, and the loop over batches."""

import datetime
import os
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from qprompt.errors import UserError

from .._left_out import LeftOut, advice
from ..data import DataManager
from ..evaluation import build_evaluator
from ..modeling import build_backbone, build_head
from ..optim import build_lr_scheduler, build_optimizer
from ..utils import AverageMeter, MetricMeter, count_num_param, load_pretrained_weights, mkdir_if_missing
from ..utils.checkpoints import CheckpointMissing
from .run_state import setting_differences, training_settings
from .trainer_base import TrainerBase


class SimpleNet(nn.Module):
    """A registered backbone, a registered head if the config names one, and a linear classifier."""

    def __init__(self, cfg, model_cfg, num_classes, **kwargs):
        super().__init__()
        backbone, head = model_cfg.BACKBONE, model_cfg.HEAD
        if not backbone.NAME:
            raise LeftOut(advice("SimpleNet with the backbone (none named)"))
        self.backbone = build_backbone(backbone.NAME, verbose=cfg.VERBOSE, pretrained=backbone.PRETRAINED, **kwargs)
        self.head, self._fdim = None, self.backbone.out_features
        if head.NAME and head.HIDDEN_LAYERS:
            self.head = build_head(
                head.NAME,
                verbose=cfg.VERBOSE,
                in_features=self._fdim,
                hidden_layers=head.HIDDEN_LAYERS,
                activation=head.ACTIVATION,
                bn=head.BN,
                dropout=head.DROPOUT,
            )
            self._fdim = self.head.out_features
        self.classifier = nn.Linear(self._fdim, num_classes) if num_classes > 0 else None

    @property
    def fdim(self):
        """The width of the features."""
        return self._fdim

    def forward(self, x, return_feature=False):
        """Return the logits of images, or of images and features; without classes the features."""
        features = self.backbone(x)
        if self.head is not None:
            features = self.head(features)
        if self.classifier is None:
            return features
        logits = self.classifier(features)
        return (logits, features) if return_feature else logits


class SimpleTrainer(TrainerBase):
    """A trainer with data, model, evaluator and checkpoints according to the config.

    Attributes:
        cfg: the config.
        device: where the model runs.
        dm: the `DataManager`; its loaders, num_classes, num_source_domains and lab2cname are attributes here too.
        epoch, start_epoch, max_epoch: epochs, from 0.
        batch_idx, num_batches: batches of the epoch, from 0.
        best_result: best result on the validation split so far, with TEST.FINAL_MODEL best_val.
        settings_without_effect: dotted names of further settings that may change when a run is resumed.
    """

    model: nn.Module
    train_loader_u: Any  # a DataLoader, or None
    num_batches: int
    settings_without_effect: tuple[str, ...] = ()

    def __init__(self, cfg):
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -np.inf

    def check_cfg(self, cfg):
        """Hook: raise an error for settings that the trainer does not support."""

    def build_data_loader(self):
        """Set dm, the loaders, num_classes, num_source_domains and lab2cname. An override must set the same."""
        dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self):
        """Build and register the model. The default model needs a backbone of real Dassl, so override this."""
        cfg = self.cfg
        print("Building model")
        self.model = SimpleNet(cfg, cfg.MODEL, self.num_classes)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        print(f"# params: {count_num_param(self.model):,}")
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("model", self.model, self.optim, self.sched)

    @staticmethod
    def same_setting(key, a, b):
        """Hook: return whether a run that was trained with the value `a` of setting `key` may be resumed with `b`."""
        return a == b

    def _training_settings(self):
        return training_settings(self.cfg, self.settings_without_effect)

    def run_state(self):
        """Return the state of the run; see `TrainerBase.run_state`.

        Adds "best_result", "config" (the settings that decide what is trained) and "classnames" in label order.
        """
        return {
            **super().run_state(),
            "best_result": float(self.best_result),
            "config": self._training_settings(),
            "classnames": list(self.lab2cname.values()),
        }

    def load_run_state(self, state):
        """Restore what `run_state` returned.

        Raises:
            UserError: the checkpoint is of a run with other settings.
        """
        differences = setting_differences(state["config"], self._training_settings(), self.same_setting)
        if differences:
            raise UserError(
                f"the checkpoint is of a run with other settings: {'; '.join(differences)}. "
                "Use the same settings, or another --output-dir."
            )
        super().load_run_state(state)
        self.best_result = state["best_result"]

    def train(self):  # type: ignore[override]  # Dassl's signature
        """Train to the last epoch and test. Resumes from the newest checkpoint in the output folder or cfg.RESUME."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        """Resume if there is a checkpoint, open the tensorboard writer and start the clock.

        Raises:
            UserError: cfg.RESUME has no checkpoint.
        """
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.cfg.OUTPUT_DIR)
        if self.cfg.RESUME and self.start_epoch == 0:
            raise CheckpointMissing(
                f"nothing to resume in {self.cfg.RESUME}: expected {'/checkpoint, '.join(self.get_model_names())}"
                "/checkpoint in it. RESUME is the output folder of a run."
            )
        writer_dir = os.path.join(self.output_dir, "tensorboard")
        mkdir_if_missing(writer_dir)
        self.init_writer(writer_dir)
        self.time_start = time.time()

    def after_train(self):
        """Test the last model, or the best model with TEST.FINAL_MODEL best_val."""
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def after_epoch(self):
        """Save a checkpoint if the model is the best so far, every CHECKPOINT_FREQ epochs and after the last epoch."""
        cfg = self.cfg
        if not cfg.TEST.NO_TEST and cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name="model-best.pth.tar")
        epochs_done, freq = self.epoch + 1, cfg.TRAIN.CHECKPOINT_FREQ
        if epochs_done == self.max_epoch or (freq > 0 and epochs_done % freq == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split=None, **options):
        """Evaluate the model and print the results.

        Args:
            split: "val" or "test"; default TEST.SPLIT. Without validation data "val" is "test".
            options: of forks of Dassl (``is_final``); a line says that they have no effect.

        Returns:
            The first result of the evaluator: the accuracy in percent.
        """
        if options:
            print(f"Note: test() of this engine has no {', '.join(options)}; it has no effect")
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = split or self.cfg.TEST.SPLIT
        if split == "val" and self.val_loader is not None:
            loader = self.val_loader
        else:
            split, loader = "test", self.test_loader
        print(f"Evaluate on the *{split}* set")
        for batch in tqdm(loader):
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
        results = self.evaluator.evaluate()
        for key, value in results.items():
            self.write_scalar(f"{split}/{key}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input):
        """Return the logits (B, C) of images (B, 3, H, W)."""
        return self.model(input)

    def parse_batch_test(self, batch):
        """Return the images and labels of a batch on the device."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    def get_current_lr(self, names=None):
        """Return the learning rate of the first parameter group of the first model of `names` (default: all)."""
        name = self.get_model_names(names)[0]
        return self._optims[name].param_groups[0]["lr"]

    def _run_batches(self, batches):
        """Call `forward_backward` with each tuple of arguments in `batches`; print progress and write scalars."""
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        freq = self.cfg.TRAIN.PRINT_FREQ
        end = time.time()
        for self.batch_idx, batch in enumerate(batches):
            data_time.update(time.time() - end)
            loss_summary = self.forward_backward(*batch)
            batch_time.update(time.time() - end)
            losses.update(loss_summary)
            if (self.batch_idx + 1) % freq == 0 or self.num_batches < freq:
                self._print_progress(losses, batch_time, data_time)
            step = self.epoch * self.num_batches + self.batch_idx
            for name, meter in losses.meters.items():
                self.write_scalar(f"train/{name}", meter.avg, step)
            self.write_scalar("train/lr", self.get_current_lr(), step)
            end = time.time()

    def _print_progress(self, losses, batch_time, data_time):
        batches_left = (self.max_epoch - self.epoch) * self.num_batches - self.batch_idx - 1
        eta = datetime.timedelta(seconds=int(batch_time.avg * batches_left))
        print(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{losses} lr {self.get_current_lr():.4e} eta {eta}"
        )
