"""Checkpoints of prompts, ours and upstream's: found, checked against the run that loads them, loaded."""

import os.path as osp
from glob import glob

from qprompt.errors import UserError
from qprompt.io.torch_files import read_checkpoint
from qprompt.quantization.state_dicts import load_state_dict_

# The embeddings of the class tokens: upstream stores them, here they are rebuilt for the classes at hand.
REBUILT = ("token_prefix", "token_suffix")


class PromptCheckpoints:
    """The part of a `PromptTrainer` that loads. What does not fit is a UserError; nothing is passed over in silence."""

    binding_settings: tuple[str, ...] = ()  # settings that a checkpoint must share with the run that loads it

    def run_state(self):
        """Adds to a checkpoint which backbone its prompts belong to; settings and class names are in it already."""
        return {**super().run_state(), "backbone_sha256": self.backbone_sha256}

    def load_model(self, directory, epoch=None):
        """Load the prompts of `epoch` (default: the best) from a run's output folder, ours or upstream's.

        Raises UserError when there is none, or when it does not fit this run.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        file_name = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = osp.join(directory, name, file_name)
            if not osp.isfile(path):
                raise UserError(f"no checkpoint {path}. {_what_is_there(osp.join(directory, name))}")
            self.load_prompts(path, self._models[name])
        self.model.forget()

    def load_prompts(self, path, module):
        """Load one checkpoint file into a registered module."""
        # Not by dassl.utils.load_checkpoint: the real Dassl's runs what a file holds.
        checkpoint, state = read_checkpoint(path)
        state = {key: value for key, value in state.items() if self.is_learned(key)}
        self.check_settings(checkpoint.get("run") or {}, path)
        print(f'Loading weights to {self.registered_name} from "{path}" (epoch = {checkpoint.get("epoch")})')
        bad = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
        if bad:
            raise UserError(f"{path} holds NaN or infinite values in {', '.join(bad[:3])}: load an earlier epoch.")
        known = module.state_dict()
        # A quantized prompt is stored in both ways; a plain one takes what it knows.
        unknown = [key for key in state if key not in known and "parametrizations." not in key]
        if unknown:
            raise UserError(
                f"{path} holds {', '.join(unknown)}, for which {self.cfg.TRAINER.NAME} has no place with these "
                f"settings (TRAINER.{self.node}: {dict(self.settings)}). Was it trained with others?"
            )
        try:
            load_state_dict_(module, state)
        except UserError as error:
            raise UserError(f"{path} does not fit {self.cfg.TRAINER.NAME} with these settings: {error}") from None

    def is_learned(self, key):
        """Whether `key` of an upstream checkpoint is a learned prompt, not a part of CLIP or a class token."""
        return key.rpartition(".")[2] not in REBUILT

    def check_settings(self, run, path):
        """Raise UserError when a checkpoint of ours says that it belongs to other settings or another backbone.

        `run`: what the checkpoint says of the run that wrote it; upstream's say nothing.
        """
        config = run.get("config", {})
        for key in (f"TRAINER.{self.node}.{name}" for name in self.binding_settings):
            ours = self.settings[key.rpartition(".")[2]]
            if config.get(key, ours) != ours:
                raise UserError(
                    f"{path} was trained with {key} {config[key]}, this run has {ours}: type {key} {config[key]}."
                )
        theirs = run.get("backbone_sha256", self.backbone_sha256)
        if theirs != self.backbone_sha256:
            raise UserError(
                f"{path} was trained on other backbone weights ({config.get('MODEL.BACKBONE.NAME')}, SHA-256 "
                f"{theirs[:12]}...) than those of this run ({self.cfg.MODEL.BACKBONE.NAME}, "
                f"{self.backbone_sha256[:12]}...)."
            )


def _what_is_there(folder):
    epochs = sorted(int(p.rpartition("-")[2]) for p in glob(osp.join(folder, "model.pth.tar-*[0-9]")))
    if not epochs:
        return f"{folder} holds no checkpoints: is it the output folder of a training run of this trainer?"
    return f"There are epochs {', '.join(map(str, epochs))}: type --load-epoch {epochs[-1]}."
