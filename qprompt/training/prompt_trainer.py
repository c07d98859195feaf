"""The trainer that all prompt-learning methods share: backbone, precision, training step."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from dassl.data import DataManager
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor

from qprompt.backbones import ClipModel, Identity, load_clip
from qprompt.data.layouts import LAYOUTS
from qprompt.errors import UserError, did_you_mean
from qprompt.io.transfer import joined
from qprompt.prompted_clip import PromptedCLIP, describe_no_words, describe_same_prompts
from qprompt.prompted_clip.memory import bound_text_memory_, training_memory
from qprompt.prompts.initial import check_words
from qprompt.runs import identity
from qprompt.runs.folder import has_checkpoint
from qprompt.training.augmentation import place_transforms_
from qprompt.training.checkpointing import PromptCheckpoints
from qprompt.training.feature_caching import CachedFeatures
from qprompt.training.feature_loaders import parse_feature_cache
from qprompt.training.image_dataset import ImageDataset
from qprompt.training.leaks import leaks
from qprompt.training.precision import (
    FP16_UPSTREAM,
    PRECISIONS,
    RoundedAway,
    check_optimizer,
    convert_backbone_,
    train_like_upstream_,
    usable_precision,
)
from qprompt.training.progress_guard import ProgressGuard
from qprompt.training.tentative_step import TentativeStep, read_together
from qprompt.training.text_memory import text_memory_bytes

log = logging.getLogger(__name__)


class PromptTrainer(PromptCheckpoints, CachedFeatures):
    """Trains a `qprompt.prompts.Method` on the Dassl engine. A subclass names the method."""

    settings_without_effect = identity.WITHOUT_EFFECT  # the bundled engine refuses to resume a run with other settings
    same_setting = staticmethod(identity.alike)

    @property
    def prompts_images(self) -> bool:
        return self.method.prompts_images(self.settings)

    def build_prompted_clip(self, clip_model: ClipModel, classnames: list[str]) -> PromptedCLIP:
        """Return the model: CLIP with a fresh learner."""
        return self.method.build(clip_model, classnames, self.settings, self.cfg.MODEL.LOGIT_SCALE)

    def describe_prompts(self) -> dict[str, Any]:
        """Return the metadata of a prompt file that `qprompt predict` needs."""
        layout = self.model.layout
        return {
            "backbone_sha256": self.backbone_identity.sha256,
            "words": layout.words,
            "class_position": layout.position,
            "logit_scale": self.cfg.MODEL.LOGIT_SCALE or None,
        }

    def check_cfg(self, cfg):
        node = self.method.node
        precision = cfg.TRAINER[node].PREC
        if precision not in PRECISIONS:
            raise UserError(
                f"TRAINER.{node}.PREC is one of {', '.join(PRECISIONS)}; got {precision!r}."
                f"{did_you_mean(str(precision), PRECISIONS)}"
            )
        check_optimizer(precision, self.method, cfg.OPTIM.NAME)
        parse_feature_cache(cfg.FEATURE_CACHE)
        if not cfg.OPTIM.LR > 0:
            raise UserError(f"OPTIM.LR is {cfg.OPTIM.LR}, expected more than 0, e.g. type OPTIM.LR 0.002.")
        check_words(cfg.TRAINER[node].get("CTX_INIT", ""), f"TRAINER.{node}.CTX_INIT")
        self.method.check(cfg.TRAINER[node])

    def build_data_loader(self):
        self.dm = DataManager(self.cfg, dataset_wrapper=ImageDataset)
        for name in ("train_loader_x", "train_loader_u", "val_loader", "test_loader"):
            setattr(self, name, getattr(self.dm, name))
        for name in ("num_classes", "num_source_domains", "lab2cname"):
            setattr(self, name, getattr(self.dm, name))
        self.check_class_names()
        loaders = self.train_loader_x, self.train_loader_u, self.val_loader, self.test_loader
        self.computed = {"augment": place_transforms_(self.cfg, loaders, self.device)}

    def check_class_names(self):
        """Refuse classes with the same prompt; the benchmark has some, and contexts of their own tell classes apart."""
        problem = describe_same_prompts(self.dm.dataset.classnames)
        method = getattr(self, "method", None)
        if problem and (self.cfg.DATASET.NAME in LAYOUTS or (method and method.class_specific(self.settings))):
            log.warning("%s.", problem)
        elif problem:
            raise UserError(f"{problem}. Put their images into one class, or give other names with DATASET.CLASSNAMES.")
        if problem := describe_no_words(self.dm.dataset.classnames):
            raise UserError(f"{problem}. Give another name with DATASET.CLASSNAMES.")

    def build_model(self):
        self.precision = self.usable_precision(self.settings.PREC)
        self.computed["precision"] = self.precision
        clip_model = self.load_backbone()
        log.info("Building custom CLIP")
        self.model = self.build_prompted_clip(clip_model, self.dm.dataset.classnames)
        module = self.method.checkpoint_module(self.model)
        if self.cfg.MODEL.INIT_WEIGHTS:
            self.load_prompts(self.cfg.MODEL.INIT_WEIGHTS, module)
        if self.precision == FP16_UPSTREAM:
            train_like_upstream_(self.model, self.method)
        self.model.to(self.device)
        log.info("Parameters to be updated: %s", [name for name, _ in self.model.named_parameters()])
        self.optim = build_optimizer(module, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(self.method.folder, module, self.optim, self.sched)
        # fp16 gradients vanish without a scaled loss; bf16 has the range of fp32.
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision in ("fp16", "amp") else None
        self.cache_features()

    def before_train(self):
        """Bound the memory of text encoding, report the memory of a step, and say which images are not only tested."""
        for leak in leaks(self.cfg, self.dm.dataset):
            log.warning("%s", leak[0].upper() + leak[1:])
            self.deviations = [*self.deviations, leak]
        batch, allowed = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE, text_memory_bytes(self.cfg, self.device)
        contexts = batch if self.method.conditional else 1
        layout, clip_model = self.model.layout, self.model.clip_model
        if allowed > 0:
            bound_text_memory_(layout, clip_model, allowed, contexts)
            self.computed |= {"text_memory_bytes": allowed, "text_parts": len(layout.parts) or 1}
        image = self.model.prompts().image if self.prompts_images else None
        n_image = 0 if image is None else len(image)
        log.info("Memory of a training step: %s", training_memory(clip_model, layout, batch, n_image, contexts))
        if layout.recomputed:
            log.info("Text is encoded in %d parts, %d of them again for backward", len(layout.parts), layout.recomputed)
        if not len(self.train_loader_x):
            raise UserError(
                f"there is no training batch: {len(self.dm.dataset.train_x)} images in batches of {batch}: type "
                f"DATALOADER.TRAIN_X.BATCH_SIZE {len(self.dm.dataset.train_x)}."
            )
        if self.cfg.CUDA_GRAPH:
            self.capture_graphs()
        super().before_train()
        scale = None if self.scaler is None else self.scaler.get_scale()
        self.guard = ProgressGuard(self.learned(), scale, self.counted.get("guard"))
        if self.precision == FP16_UPSTREAM:
            self.rounded = RoundedAway(self.learned(), self.counted.get("rounded"))

    def capture_graphs(self) -> None:
        """Compute steps with CUDA graphs where that is possible, and say why where it is not."""
        if self.device.type != "cuda":
            log.info("CUDA_GRAPH has no effect on the %s", self.device.type.upper())
        elif self.model.layout.parts:
            raise UserError(
                f"CUDA_GRAPH needs text that is encoded at once; TEXT_MEMORY_MB {self.cfg.TEXT_MEMORY_MB} makes "
                f"{len(self.model.layout.parts)} parts: type CUDA_GRAPH False, or TEXT_MEMORY_MB 0 for no bound."
            )
        else:
            self.model.capture_graphs_()
            self.computed |= {"cuda_graph": True}

    def after_train(self):
        if self.guard is not None:
            self.guard.check_moved(f"TRAINER.{self.method.node}.PREC fp32")
            if self.guard.skipped:
                log.warning("%d steps were skipped for NaN or infinite gradients", self.guard.skipped)
        if self.rounded is not None:
            self.computed |= self.rounded.record()
            log.info("Entries of fp16 parameters that a step left unchanged: %.1f%%", 100 * self.rounded.share)
        super().after_train()

    def usable_precision(self, precision: str) -> str:
        """Return the precision that this device computes in."""
        return usable_precision(precision, self.device, f"TRAINER.{self.method.node}.PREC")

    def load_backbone(self) -> ClipModel:
        """Return the frozen CLIP in the precision of the run."""
        backbone = self.cfg.MODEL.BACKBONE
        log.info("Loading CLIP (backbone: %s)", ", ".join(filter(None, (backbone.NAME, backbone.PATH))))
        clip_model = load_clip(backbone.NAME, backbone.PATH)
        self.backbone_identity = Identity.of(clip_model)
        expected = clip_model.visual.input_resolution
        if tuple(self.cfg.INPUT.SIZE) != (expected, expected):
            raise UserError(
                f"INPUT.SIZE is {tuple(self.cfg.INPUT.SIZE)}, but this backbone expects {expected} x {expected} "
                f"pixels: type INPUT.SIZE '({expected}, {expected})'."
            )
        convert_backbone_(clip_model, self.precision, getattr(self, "method", None))
        return clip_model

    def autocast(self) -> Any:
        # Weights that autocast has converted must not be kept from outside of a graph to its inside.
        keep = not self.cfg.CUDA_GRAPH
        return torch.autocast(self.device.type, torch.float16, enabled=self.precision == "amp", cache_enabled=keep)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        with self.autocast():
            logits = self.model(image)
        loss = F.cross_entropy(logits, label)  # in fp32, except with PREC fp16-upstream
        self.optim.zero_grad()
        step = None
        if self.scaler is None:
            loss.backward()
            self.optim.step()
        else:
            loss.backward(self.scaler.scale(torch.ones_like(loss)))  # not scale(loss).backward(): one product less
            step = TentativeStep(self.scaler, self.optim)
        if self.rounded is not None:
            self.rounded.observe()
        correct = (logits.argmax(dim=1) == label).mean(dtype=torch.float32)
        own, more = [loss, correct], self.also_read()
        if step is None:
            own += torch._foreach_norm([p.detach() for _, p in self.learned()], math.inf)
        else:  # finite gradients leave the weights finite
            own += [step.overflow, step.scale]
        numbers, *others = read_together([joined(own), *(tensor for tensor, _ in more)])
        loss_value, accuracy_value = float(numbers[0]), float(np.float32(numbers[1]) * np.float32(100))
        overflow, scale = (bool(numbers[2]), float(numbers[3])) if step else (False, None)
        if step is not None and overflow:
            step.take_back()
        for (_, take), given in zip(more, others, strict=True):
            take(given)
        stuck = self.guard is not None and self.guard.observe(scale)
        finite = step is not None or bool(np.isfinite(numbers[2:]).all())
        self.stop_unless_finite(image, loss_value, finite, stuck)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss_value, "acc": accuracy_value}

    def also_read(self) -> list[tuple[Tensor, Callable[[np.ndarray], None]]]:
        """Hook: return what to read from the device with the numbers of a step, each with what to do with it then."""
        return []

    def learned(self) -> list[tuple[str, Tensor]]:
        """Return name and tensor of everything that is trained."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def stop_unless_finite(self, image: Tensor, loss: float, weights: bool, stuck: bool = False) -> None:
        """Stop on NaN or inf and name the tensor; earlier checkpoints stay.

        Args:
            image: pixels or features of the batch.
            loss: of the batch.
            weights: whether all learned weights are finite after the step.
            stuck: whether the gradient scaler skips every step.

        Raises:
            UserError: one of them is not finite.
        """
        if math.isfinite(loss) and weights and not stuck:
            return
        precision = f"TRAINER.{self.method.node}.PREC fp32"
        hint = f"Type OPTIM.LR {self.cfg.OPTIM.LR / 10:g}" + ("" if self.precision == "fp32" else f" or {precision}")
        hint += " and another --output-dir." if has_checkpoint(Path(self.output_dir)) else "."
        bad = {
            "gradient": [name for name, p in self.learned() if p.grad is not None and not p.grad.isfinite().all()],
            "weights": [name for name, p in self.learned() if not p.isfinite().all()],
        }
        if not image.isfinite().all():
            what = f"the {'pixels' if image.ndim == 4 else 'image features'} hold NaN or infinite values"
            hint = f"Is the backbone damaged? If not, type {precision}."
        elif not math.isfinite(loss):
            what = f"the loss is {loss}"
        elif stuck and self.guard is not None:
            names = ", ".join(bad["gradient"][:3]) or "the prompts"
            what = (
                f"the gradient of {names} holds NaN or infinite values in every step "
                f"({self.guard.in_a_row} in a row were skipped, the loss scale fell to {self.guard.scale:g})"
            )
        else:
            kind = next((kind for kind in bad if bad[kind]), "weights")
            what = f"the {kind} of {', '.join(bad[kind][:3]) or 'the prompts, summed,'} holds NaN or infinite values"
        raise UserError(
            f"{what} at epoch {self.epoch + 1}, batch {self.batch_idx + 1}: training stopped; "
            f"earlier checkpoints stay. {hint}"
        )

    def parse_batch_train(self, batch):
        image, label = batch["img"], batch["label"]  # pinned on a GPU: it need not wait for the copies
        return image.to(self.device, non_blocking=True), label.to(self.device, non_blocking=True)

    def parse_batch_test(self, batch):
        """Return the images on the device, and the labels where they are: on the host, as the logits."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"]

    def model_inference(self, image):
        """Return the logits on the host; nothing else of an evaluated batch waits for the device."""
        with self.autocast():
            logits = self.model(image).cpu()
        if not bool(logits.isfinite().all()):
            raise UserError(
                "the logits hold NaN or infinite values: the backbone or the prompts overflow in this precision. "
                f"Try TRAINER.{self.method.node}.PREC fp32, or an earlier checkpoint."
            )
        return logits

    def set_model_mode(self, mode="train", names=None):
        super().set_model_mode(mode, names)
        self.model.invalidate_cache()
