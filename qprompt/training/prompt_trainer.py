"""What all prompt learners share: backbone, precision, the training step."""

import math

import torch
import torch.nn.functional as F
from dassl.data import DataManager
from dassl.engine import TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer

from qprompt.backbones import backbone_hash, convert_weights_, load_clip
from qprompt.data.decode_cache import MB
from qprompt.data.device_transforms import transform_on_device_
from qprompt.errors import UserError, did_you_mean
from qprompt.prompted_clip import initial_context, prompt_layout
from qprompt.prompted_clip.memory import bound_text_memory_, training_memory
from qprompt.runs import identity
from qprompt.training.checkpointing import PromptCheckpoints
from qprompt.training.feature_caching import KeptFeatures
from qprompt.training.feature_loaders import parse_feature_cache
from qprompt.training.image_dataset import ImageDataset

PRECISIONS = ("fp16", "fp32", "amp", "bf16")


class PromptTrainer(PromptCheckpoints, KeptFeatures, TrainerX):
    """Base of the trainers in this folder; a subclass says what is learned in `build_prompted_clip`."""

    node = ""  # its settings: cfg.TRAINER.<node>
    registered_name = "prompt_learner"  # the checkpoint folder, as upstream names it
    conditional = False  # whether text features depend on the image
    settings_without_effect = identity.WITHOUT_EFFECT  # the bundled engine refuses to resume a run with other settings
    same_setting = staticmethod(identity.alike)

    def build_prompted_clip(self, clip_model, classnames):
        """The model: a `PromptedCLIP`."""
        raise NotImplementedError

    def describe_prompts(self):
        """What a prompt file says beside the tensors, so that `qprompt predict` can use them."""
        layout = self.model.layout
        return {
            "backbone_sha256": self.backbone_sha256,
            "words": layout.words,
            "class_position": layout.position,
        }

    def registered_module(self):
        """The module whose state is the checkpoint: its names are upstream's."""
        return self.model.prompt_learner

    @property
    def settings(self):
        return self.cfg.TRAINER[self.node]

    def check_cfg(self, cfg):
        precision = cfg.TRAINER[self.node].PREC
        if precision not in PRECISIONS:
            raise UserError(
                f"TRAINER.{self.node}.PREC is one of {', '.join(PRECISIONS)}; got {precision!r}."
                f"{did_you_mean(str(precision), PRECISIONS)}"
            )
        parse_feature_cache(cfg.FEATURE_CACHE)

    def build_data_loader(self):
        self.dm = DataManager(self.cfg, dataset_wrapper=ImageDataset)
        for name in ("train_loader_x", "train_loader_u", "val_loader", "test_loader"):
            setattr(self, name, getattr(self.dm, name))
        for name in ("num_classes", "num_source_domains", "lab2cname"):
            setattr(self, name, getattr(self.dm, name))
        where = self.cfg.INPUT.AUGMENT
        if where not in ("cpu", "device"):
            raise UserError(f"INPUT.AUGMENT is cpu or device; got {where!r}.")
        for loader in (self.train_loader_x, self.train_loader_u, self.val_loader, self.test_loader):
            if where == "device" and loader is not None:
                transform_on_device_(loader)

    def build_model(self):
        self.precision = self.usable_precision(self.settings.PREC)
        clip_model = self.load_backbone()
        print("Building custom CLIP")
        self.model = self.build_prompted_clip(clip_model, self.dm.dataset.classnames)
        module = self.registered_module()
        if self.cfg.MODEL.INIT_WEIGHTS:
            self.load_prompts(self.cfg.MODEL.INIT_WEIGHTS, module)
        self.model.to(self.device)
        print(f"Parameters to be updated: {[name for name, _ in self.model.named_parameters()]}")
        self.optim = build_optimizer(module, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(self.registered_name, module, self.optim, self.sched)
        # fp16 gradients vanish without a scaled loss; bf16 has the range of fp32.
        self.scaler = torch.amp.GradScaler("cuda") if self.precision in ("fp16", "amp") else None
        self.keep_features()

    def before_train(self):
        """Bound the memory of text encoding, and say what a step takes."""
        batch, allowed = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE, self.cfg.TEXT_MEMORY_MB * MB
        if allowed < 0 and self.device.type == "cuda":
            allowed = torch.cuda.mem_get_info(self.device)[0] // 2
        contexts = batch if self.conditional else 1
        layout, clip_model = self.model.layout, self.model.clip_model
        if allowed > 0:
            bound_text_memory_(layout, clip_model, allowed, contexts)
        n_image = len(self.model.prompts().image) if self.prompts_images else 0
        print(f"Memory of a training step: {training_memory(clip_model, layout, batch, n_image, contexts)}")
        if layout.recomputed:
            print(f"Text is encoded in {len(layout.parts)} parts, {layout.recomputed} of them again for backward")
        super().before_train()

    def usable_precision(self, precision):
        """`precision`, or fp32 where half precision has no hardware."""
        if torch.cuda.device_count() > 1:
            print(
                f"{torch.cuda.device_count()} GPUs are visible: a run uses one ({self.device}). "
                "'qprompt sweep' spreads runs over all of them."
            )
        if self.device.type == "cpu" and precision in ("fp16", "amp"):
            print(f"PREC {precision} needs a GPU: this run computes in fp32 on the CPU (bf16 works there too)")
            return "fp32"
        return precision

    def load_backbone(self):
        """The frozen CLIP in the precision of the run."""
        backbone = self.cfg.MODEL.BACKBONE
        print(f"Loading CLIP (backbone: {backbone.NAME}{', ' + backbone.PATH if backbone.PATH else ''})")
        clip_model = load_clip(backbone.NAME, backbone.PATH)
        self.backbone_sha256 = backbone_hash(clip_model)
        expected = clip_model.visual.input_resolution
        if tuple(self.cfg.INPUT.SIZE) != (expected, expected):
            raise UserError(
                f"INPUT.SIZE is {tuple(self.cfg.INPUT.SIZE)}, but this backbone takes {expected} x {expected} "
                f"pixels: type INPUT.SIZE '({expected}, {expected})'."
            )
        if self.precision in ("fp16", "bf16"):
            convert_weights_(clip_model, torch.float16 if self.precision == "fp16" else torch.bfloat16)
        return clip_model

    def autocast(self):
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.precision == "amp")

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        with self.autocast():
            logits = self.model(image)
        loss = F.cross_entropy(logits, label)  # logits are fp32 in every precision
        self.optim.zero_grad()
        if self.scaler is None:
            loss.backward()
            self.optim.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
        accuracy = (logits.argmax(dim=1) == label).float().mean() * 100
        weights = sum(p.detach().sum(dtype=torch.float32) for _, p in self.learned())
        numbers = torch.stack([loss.detach(), accuracy, weights]).tolist()  # one wait for the device
        loss_value, accuracy_value, _ = numbers
        self.stop_unless_finite(image, *numbers)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss_value, "acc": accuracy_value}

    def learned(self):
        """Name and tensor of everything that is trained."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def stop_unless_finite(self, image, loss, accuracy, weights):
        """A number that is none ends the run and is named; checkpoints written before it stay.

        image: pixels or features of the batch; weights: the sum over all that is learned, after the step.
        """
        if math.isfinite(loss) and math.isfinite(weights):
            return
        hint = f"Try TRAINER.{self.node}.PREC fp32 or a lower OPTIM.LR."
        bad = {
            "gradient": [name for name, p in self.learned() if p.grad is not None and not p.grad.isfinite().all()],
            "weights": [name for name, p in self.learned() if not p.isfinite().all()],
        }
        if not image.isfinite().all():
            what = f"the {'pixels' if image.ndim == 4 else 'image features'} hold NaN or infinite values"
            hint = f"Is the backbone sound? Try TRAINER.{self.node}.PREC fp32."
        elif not math.isfinite(loss):
            what = f"the loss is {loss}"
        else:
            kind = next((kind for kind in bad if bad[kind]), "weights")
            what = f"the {kind} of {', '.join(bad[kind][:3]) or 'the prompts, summed,'} holds NaN or infinite values"
        raise UserError(
            f"{what} at epoch {self.epoch + 1}, batch {self.batch_idx + 1}: training stopped; "
            f"checkpoints from before stay. {hint}"
        )

    def parse_batch_train(self, batch):
        image, label = batch["img"], batch["label"]  # pinned on a GPU: it need not wait for the copies
        return image.to(self.device, non_blocking=True), label.to(self.device, non_blocking=True)

    def model_inference(self, image):
        with self.autocast():
            logits = self.model(image)
        if not bool(logits.isfinite().all()):
            raise UserError(
                "the logits hold NaN or infinite values: the backbone or the prompts are no numbers in this precision. "
                f"Try TRAINER.{self.node}.PREC fp32, or an earlier checkpoint."
            )
        return logits

    def set_model_mode(self, mode="train", names=None):
        super().set_model_mode(mode, names)
        self.model.forget()


def hybrid_context(clip_model, classnames, n_ctx, ctx_init):
    """Context vectors and layout as MaPLe and IVLP start them: up to 4 vectors take the first words of CTX_INIT, whose
    other words stay ("a photo of a" with 2: `[v1] [v2] of a <class>.`); more are drawn at random."""
    words = ctx_init.replace("_", " ") if ctx_init and n_ctx <= 4 else ""
    context = initial_context(clip_model, n_ctx, words)
    words = words or " ".join(["X"] * n_ctx)
    print(f'Initial context: "{words}"\nNumber of context words (tokens): {n_ctx}')
    return context, prompt_layout(clip_model, classnames, words, n_ctx)


def check_depth(clip_model, depth, key, image=False, text=False):
    """Raise UserError unless `depth` is between 1 and the number of layers of the branches that are prompted."""
    if image and not hasattr(clip_model.visual, "transformer"):
        raise UserError(f"{key} {depth} needs a ViT backbone; a ResNet takes text prompts alone (CoOp, CoCoOp).")
    layers = [len(clip_model.transformer.resblocks)] if text else []
    layers += [len(clip_model.visual.transformer.resblocks)] if image else []
    if not 1 <= depth <= min(layers):
        raise UserError(f"{key} is {depth}; this backbone takes 1 to {min(layers)} (one for each layer prompted).")
