"""``TrainerBase``: named models, their checkpoints, and the loop over epochs with its hooks."""

import torch

from .model_checkpoints import ModelCheckpoints


class TrainerBase(ModelCheckpoints):
    """Named models with their optimizers and schedulers, and the loop over epochs with its hooks."""

    def __init__(self):
        super().__init__()
        self._writer = None

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
