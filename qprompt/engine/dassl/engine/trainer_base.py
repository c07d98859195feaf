"""``TrainerBase``: named models, their checkpoints, and the loop over epochs with its hooks."""

import os
import re
from collections import OrderedDict

import torch

from qprompt.io.random_state import RandomState

from ..utils import load_checkpoint, save_checkpoint, tolist_if_not
from ..utils.torchtools import CheckpointMissing, latest_checkpoint, load_into, resume_from


class TrainerBase:
    """Named models with their optimizers and schedulers, and the loop over epochs with its hooks."""

    def __init__(self):
        self._models = OrderedDict()
        self._optims = OrderedDict()
        self._scheds = OrderedDict()
        self._writer = None

    def register_model(self, name="model", model=None, optim=None, sched=None):
        """Register a model: it is saved and loaded as `name`.

        Args:
            name: name of the model, and of its folder of checkpoints.
            model: a module.
            optim: its optimizer; None if it is not trained.
            sched: its learning rate scheduler, or None.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("Cannot assign model before super().__init__() call")
        assert name not in self._models, "Found duplicate model names"
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names=None):
        """Return `names` (a name or a list) as a list after checking that they are registered; all names for None."""
        registered = list(self._models)
        if names is None:
            return registered
        names = tolist_if_not(names)
        for name in names:
            assert name in registered, f"no model is registered as {name!r}, only {registered}"
        return names

    # --- checkpoints

    def run_state(self):
        """Return what a resumed run needs beside the models, as tensors and plain values.

        It is saved under "run" in every checkpoint. A trainer with more state extends this method and
        `load_run_state`. This class saves "random" (the states of the random generators) and "scaler".
        """
        state = {"random": RandomState.current().to_checkpoint()}
        scaler = getattr(self, "scaler", None)  # of mixed precision
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        return state

    def load_run_state(self, state):
        """Restore what `run_state` returned."""
        scaler = getattr(self, "scaler", None)
        if scaler is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        RandomState.from_checkpoint(state["random"]).restore()

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        """Save each model to ``directory/NAME/model.pth.tar-{epoch + 1}``.

        Args:
            epoch: epoch that was trained last, from 0.
            directory: output folder of the run.
            is_best: whether to copy the files to ``model-best.pth.tar``.
            val_result: result on the validation split, if any.
            model_name: file name to use instead.
        """
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
        """Load the newest checkpoint in `directory`, if there is one, and restore the state of the run.

        Returns:
            The number of epochs trained.
        """
        names = self.get_model_names()
        if not names or not all(os.path.exists(os.path.join(directory, name, "checkpoint")) for name in names):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        paths, checkpoints = self._newest_checkpoints(directory, names)
        for name, checkpoint in checkpoints.items():
            resume_from(checkpoint, paths[name], self._models[name], self._optims[name], self._scheds[name])
        run = checkpoints[names[-1]].get("run")
        if run is not None:  # checkpoints of real Dassl do not have it
            self.load_run_state(run)
        return checkpoints[names[-1]]["epoch"]

    @staticmethod
    def _newest_checkpoints(directory, names):
        """Return ``{name: path}`` and ``{name: content}`` of the newest epoch that was saved for all models.

        A run may be killed after it saved one model and before it saved the next.
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
        """Load each model from ``directory/NAME/model.pth.tar-{epoch}``; ``model-best.pth.tar`` if `epoch` is None.

        Raises:
            UserError: a file is missing, damaged or does not fit the model.
        """
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
        """Put the models `names` (default: all) into "train" or "test"/"eval" mode."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(mode)
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names=None):
        """Step the schedulers of the models `names` (default: all); called after the last batch of an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def detect_anomaly(self, loss):
        """Raise FloatingPointError if `loss` is not finite."""
        if not torch.isfinite(loss).all():
            where = f"epoch {self.epoch + 1}, batch {self.batch_idx + 1}" if hasattr(self, "batch_idx") else ""
            raise FloatingPointError(f"Loss is infinite or NaN! {where}".rstrip())

    def init_writer(self, log_dir):
        """Open a tensorboard writer in `log_dir`, if tensorboard is installed."""
        if self._writer is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes a second, which evaluation need not spend
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
        """Write a scalar to tensorboard, if there is a writer; evaluation has none."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # --- the loop and its hooks

    def train(self, start_epoch, max_epoch):
        """Train the epochs from `start_epoch`, or from where `before_train` resumes, up to `max_epoch`."""
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
        """Hook: called before the first epoch."""

    def after_train(self):
        """Hook: called after the last epoch."""

    def before_epoch(self):
        """Hook: called before each epoch."""

    def after_epoch(self):
        """Hook: called after each epoch."""

    def run_epoch(self):
        """Hook: train one epoch."""
        raise NotImplementedError

    def test(self):
        """Hook: evaluate the model."""
        raise NotImplementedError

    def parse_batch_train(self, batch):
        """Hook: return the tensors of a training batch on the device."""
        raise NotImplementedError

    def parse_batch_test(self, batch):
        """Hook: return the images and labels of a test batch on the device."""
        raise NotImplementedError

    def forward_backward(self, batch):
        """Hook: make a training step; return ``{name: number}`` to print."""
        raise NotImplementedError

    def model_inference(self, input):
        """Hook: return the logits (B, C) of images (B, 3, H, W)."""
        raise NotImplementedError

    def model_zero_grad(self, names=None):
        """Clear the gradients of the models `names` (default: all)."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        """Back-propagate `loss`; FloatingPointError if it is not finite."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        """Step the optimizers of the models `names` (default: all)."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss, names=None):
        """Clear gradients, back-propagate `loss` and step the optimizers of the models `names` (default: all)."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)
