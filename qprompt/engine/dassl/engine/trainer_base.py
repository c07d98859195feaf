"""``TrainerBase``: named models, their checkpoints, and a loop of epochs with hooks around it."""

import os
import re
from collections import OrderedDict

import torch

from qprompt.io.random_state import RandomState

from ..utils import load_checkpoint, save_checkpoint, tolist_if_not
from ..utils.torchtools import CheckpointMissing, latest_checkpoint, load_into, resume_from


class TrainerBase:
    """Named models with their optimizers and schedulers, and a loop of epochs with hooks around it."""

    def __init__(self):
        self._models = OrderedDict()
        self._optims = OrderedDict()
        self._scheds = OrderedDict()
        self._writer = None

    def register_model(self, name="model", model=None, optim=None, sched=None):
        """Have `model` saved and loaded as `name`, and trained by `optim` and `sched` (None: not trained)."""
        if "_models" not in self.__dict__:
            raise AttributeError("Cannot assign model before super().__init__() call")
        assert name not in self._models, "Found duplicate model names"
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names=None):
        """All registered names, or `names` (one or a list) after checking them."""
        registered = list(self._models)
        if names is None:
            return registered
        names = tolist_if_not(names)
        for name in names:
            assert name in registered, f"no model is registered as {name!r}, only {registered}"
        return names

    # --- checkpoints

    def run_state(self):
        """Whatever else a resumed run needs, as tensors and plain values; saved under "run" in every checkpoint.

        A trainer with a state of its own extends this and `load_run_state`.
        """
        state = {"random": RandomState.current().to_checkpoint()}
        scaler = getattr(self, "scaler", None)  # of mixed precision
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        return state

    def load_run_state(self, state):
        """Take back what `run_state` gave."""
        scaler = getattr(self, "scaler", None)
        if scaler is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        RandomState.from_checkpoint(state["random"]).restore()

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        """Write each model to ``directory/NAME/model.pth.tar-{epoch + 1}`` (or `model_name`)."""
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            save_checkpoint(
                {
                    "state_dict": self._models[name].state_dict(),
                    "epoch": epoch + 1,
                    "optimizer": None if optim is None else optim.state_dict(),
                    "scheduler": None if sched is None else sched.state_dict(),
                    "val_result": val_result,
                    "run": self.run_state(),
                },
                os.path.join(directory, name),
                is_best=is_best,
                model_name=model_name,
            )

    def resume_model_if_exist(self, directory):
        """Load the latest checkpoint in `directory`, with all that the run needs; return the number of epochs done."""
        names = self.get_model_names()
        if not names or not all(os.path.exists(os.path.join(directory, name, "checkpoint")) for name in names):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        paths, checkpoints = self._newest_checkpoints(directory, names)
        for name, checkpoint in checkpoints.items():
            resume_from(checkpoint, paths[name], self._models[name], self._optims[name], self._scheds[name])
        run = checkpoints[names[-1]].get("run")
        if run is not None:  # real Dassl's checkpoints have none
            self.load_run_state(run)
        return checkpoints[names[-1]]["epoch"]

    @staticmethod
    def _newest_checkpoints(directory, names):
        """``({name: path}, {name: content})`` of the newest epoch that was saved for all models.

        A run may be killed between the files of two models, hence the search.
        """
        folders = {name: os.path.join(directory, name) for name in names}
        numbered = [f for f in os.listdir(folders[names[0]]) if re.fullmatch(r"model\.pth\.tar-\d+", f)]
        numbered.sort(key=lambda f: int(f.rpartition("-")[2]), reverse=True)
        latest = os.path.basename(latest_checkpoint(folders[names[-1]]))
        for file_name in [latest, *numbered]:
            paths = {name: os.path.join(folder, file_name) for name, folder in folders.items()}
            if all(os.path.exists(path) for path in paths.values()):
                checkpoints = {name: load_checkpoint(path) for name, path in paths.items()}
                if len({checkpoint["epoch"] for checkpoint in checkpoints.values()}) == 1:
                    return paths, checkpoints
        raise CheckpointMissing(f"no epoch in {directory} was saved for all of {names}")

    def load_model(self, directory, epoch=None):
        """Load each model from ``directory/NAME/model.pth.tar-{epoch}``, or the best one when `epoch` is None."""
        if not directory:
            print(
                "Note that load_model() is skipped as no pretrained "
                "model is given (ignore this if it's done on purpose)"
            )
            return
        model_file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = os.path.join(directory, name, model_file)
            if not os.path.exists(path):
                raise CheckpointMissing(f"No model at {path}")
            checkpoint = load_checkpoint(path)
            val_result = checkpoint.get("val_result")
            shown = "none" if val_result is None else f"{val_result:.1f}"
            print(f"Load {path} to {name} (epoch={checkpoint['epoch']}, val_result={shown})")
            load_into(checkpoint, path, self._models[name])

    # --- modes, rates, scalars

    def set_model_mode(self, mode="train", names=None):
        """Put models into "train" or "test"/"eval" mode."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(mode)
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names=None):
        """Step the schedulers; trainers call it after the last batch of an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def detect_anomaly(self, loss):
        """Raise FloatingPointError when `loss` is not finite."""
        if not torch.isfinite(loss).all():
            where = f"epoch {self.epoch + 1}, batch {self.batch_idx + 1}" if hasattr(self, "batch_idx") else ""
            raise FloatingPointError(f"Loss is infinite or NaN! {where}".rstrip())

    def init_writer(self, log_dir):
        """Write scalars to tensorboard files in `log_dir`, where tensorboard is installed."""
        if self._writer is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes a second: evaluation goes without
        except ImportError:
            print("Note: tensorboard is not installed; no scalars are written (pip install tensorboard)")
            return
        print(f"Initialize tensorboard (log_dir={log_dir})")
        self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self):
        """Flush and close the tensorboard files."""
        if self._writer is not None:
            self._writer.close()

    def write_scalar(self, tag, scalar_value, global_step=None):
        """A scalar for tensorboard; nothing when there is no writer, as in evaluation."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # --- the loop and its hooks

    def train(self, start_epoch, max_epoch):
        """Epochs `start_epoch` (or where `before_train` resumes) to `max_epoch`."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self):
        """Hook."""

    def after_train(self):
        """Hook."""

    def before_epoch(self):
        """Hook."""

    def after_epoch(self):
        """Hook."""

    def run_epoch(self):
        """One pass over the training data."""
        raise NotImplementedError

    def test(self):
        """Evaluate."""
        raise NotImplementedError

    def parse_batch_train(self, batch):
        """From a batch to tensors on the device."""
        raise NotImplementedError

    def parse_batch_test(self, batch):
        """From a batch to tensors on the device."""
        raise NotImplementedError

    def forward_backward(self, batch):
        """One training step; returns ``{name: number}`` to print."""
        raise NotImplementedError

    def model_inference(self, input):
        """From images (B, 3, H, W) to logits (B, C)."""
        raise NotImplementedError

    def model_zero_grad(self, names=None):
        """Clear the gradients of the named models, or all."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        """Back-propagate a finite `loss`."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        """Step the optimizers of the named models, or all."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss, names=None):
        """A whole update from `loss`."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)
