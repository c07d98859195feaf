"""Loading checkpoints of prompts, ours and upstream's, after checking that they fit the run."""

import logging
import os.path as osp
from collections.abc import Mapping
from glob import glob
from types import MappingProxyType
from typing import Any

from dassl.engine import TrainerX
from torch import nn

from qprompt.backbones import Identity
from qprompt.errors import UserError
from qprompt.io.torch_files import read_checkpoint
from qprompt.prompted_clip import PromptedCLIP
from qprompt.prompts import Method
from qprompt.quantization.state_dicts import load_state_dict_
from qprompt.training.precision import RoundedAway
from qprompt.training.progress_guard import ProgressGuard

log = logging.getLogger(__name__)


class PromptCheckpoints(TrainerX):
    """The part of `PromptTrainer` that loads checkpoints. UserError for whatever does not fit."""

    method: Method
    model: PromptedCLIP
    backbone_identity: Identity
    guard: ProgressGuard | None = None
    rounded: RoundedAway | None = None
    counted: Mapping[str, Any] = MappingProxyType({})  # the states of these two in the checkpoint of a resumed run

    @property
    def settings(self) -> Any:
        """The config node of the method: ``TRAINER.<NODE>``."""
        return self.cfg.TRAINER[self.method.node]

    def run_state(self):
        """Add to a checkpoint which backbone its prompts belong to, and what was counted.

        Settings and class names are in it already.
        """
        watched = {key: part.state() for key in ("guard", "rounded") if (part := getattr(self, key)) is not None}
        return {**super().run_state(), "backbone_sha256": self.backbone_identity.sha256, **watched}

    def load_run_state(self, state):
        super().load_run_state(state)
        self.counted = {key: state[key] for key in ("guard", "rounded") if key in state}

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the prompts of a run's output folder, ours or upstream's.

        Args:
            directory: the output folder.
            epoch: of the checkpoint; None is the best.

        Raises:
            UserError: there is no such checkpoint, or it does not fit this run.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        file_name = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = osp.join(directory, name, file_name)
            if not osp.isfile(path):
                raise UserError(f"no checkpoint {path}. {_available(osp.join(directory, name))}")
            self.load_prompts(path, self._models[name])
        self.model.invalidate_cache()

    def load_prompts(self, path: str, module: nn.Module) -> None:
        """Load a checkpoint file into a registered module."""
        # Not with dassl.utils.load_checkpoint: the real Dassl's runs what a file holds.
        checkpoint, state = read_checkpoint(path)
        state = {key: value for key, value in state.items() if self.method.is_learned(key)}
        self.check_settings(checkpoint.get("run") or {}, path)
        log.info('Loading weights to %s from "%s" (epoch = %s)', self.method.folder, path, checkpoint.get("epoch"))
        bad = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
        if bad:
            raise UserError(f"{path} holds NaN or infinite values in {', '.join(bad[:3])}: load an earlier epoch.")
        known = module.state_dict()
        # A quantized prompt is stored in both ways; a plain one loads the keys that it knows.
        unknown = [key for key in state if key not in known and "parametrizations." not in key]
        if unknown:
            raise UserError(
                f"{path} holds {', '.join(unknown)}, for which {self.cfg.TRAINER.NAME} has no place with these "
                f"settings (TRAINER.{self.method.node}: {dict(self.settings)}). Was it trained with others?"
            )
        try:
            load_state_dict_(module, state)
        except UserError as error:
            raise UserError(f"{path} does not fit {self.cfg.TRAINER.NAME} with these settings: {error}") from None

    def check_settings(self, run: dict[str, Any], path: str) -> None:
        """Raise UserError if a checkpoint of ours belongs to other settings, another backbone or other classes.

        Args:
            run: what the checkpoint says of the run that wrote it; empty for upstream's.
            path: of the checkpoint.
        """
        config = run.get("config", {})
        for name in self.method.binding:
            key, ours = f"TRAINER.{self.method.node}.{name}", self.settings[name]
            if config.get(key, ours) != ours:
                raise UserError(
                    f"{path} was trained with {key} {config[key]}, this run has {ours}: type {key} {config[key]}."
                )
        mine = self.backbone_identity
        theirs = run.get("backbone_sha256", mine.sha256)
        if not mine.accepts(theirs):
            raise UserError(
                f"{path} was trained on other backbone weights ({config.get('MODEL.BACKBONE.NAME')}, SHA-256 "
                f"{theirs[:12]}...) than those of this run ({self.cfg.MODEL.BACKBONE.NAME}, "
                f"{mine.sha256[:12]}...)."
            )
        ours, theirs = list(self.dm.dataset.classnames), run.get("classnames")
        if self.method.class_specific(self.settings) and theirs is not None and theirs != ours:
            raise UserError(
                f"{path} holds class-specific contexts of {len(theirs)} other classes ({', '.join(theirs[:3])}, "
                f"...): they say nothing about {', '.join(ours[:3])}, .... Train with "
                f"TRAINER.{self.method.node}.CSC False."
            )


def _available(folder: str) -> str:
    epochs = sorted(int(p.rpartition("-")[2]) for p in glob(osp.join(folder, "model.pth.tar-*[0-9]")))
    if not epochs:
        return f"{folder} holds no checkpoints: is it the output folder of a training run of this trainer?"
    return f"There are epochs {', '.join(map(str, epochs))}: type --load-epoch {epochs[-1]}."
