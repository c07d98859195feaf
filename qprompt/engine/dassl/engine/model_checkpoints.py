"""``ModelCheckpoints``: the models of a trainer by name, and their checkpoints."""

import os
import re
from collections import OrderedDict

from qprompt.io.random_state import RandomState

from ..utils import load_checkpoint, save_checkpoint, tolist_if_not
from ..utils.checkpoints import CheckpointMissing, latest_checkpoint, load_into, resume_from


class ModelCheckpoints:
    """Models with their optimizers and schedulers by name, saved and loaded together."""

    def __init__(self):
        self._models = OrderedDict()
        self._optims = OrderedDict()
        self._scheds = OrderedDict()

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

    def run_state(self):
        """Return everything except the models that a resumed run needs, as tensors and plain values.

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
