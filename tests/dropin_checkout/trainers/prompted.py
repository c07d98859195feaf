"""Small trainers like CoOp's descendants, each with a habit that quantization has to support or refuse."""

import copy

import clip
import torch
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_pretrained_weights
from torch import nn
from torch.nn import functional as F

assert clip.OWN
PIXELS, WIDTH = 3 * 8 * 8, 8


class PromptLearner(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.ctx = nn.Parameter(0.02 * torch.randn(4, WIDTH))
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("token_suffix", torch.randn(n_classes, WIDTH))

    def forward(self):
        return self.token_suffix + self.proj(self.ctx).mean(0)


class CustomCLIP(nn.Module):
    """A prompt learner with frozen encoders, as in CoOp."""

    def __init__(self, n_classes):
        super().__init__()
        self.prompt_learner = PromptLearner(n_classes)
        self.image_encoder = nn.Linear(PIXELS, WIDTH)
        self.text_encoder = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def forward(self, image):
        image_features = F.normalize(self.image_encoder(image.flatten(1)), dim=-1)
        text_features = F.normalize(self.text_encoder(self.prompt_learner()), dim=-1)
        return 10 * image_features @ text_features.t()


@TRAINER_REGISTRY.register()
class Prompted(TrainerX):
    def make_model(self):
        return CustomCLIP(self.num_classes)

    named = True  # reads a config node by the name of the trainer

    def build_model(self):
        if self.named:
            assert self.cfg.TRAINER[self.cfg.TRAINER.NAME.upper()].N_CTX == 4
        self.model = self.make_model().to(self.device)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("prompt_learner" in name)
        if self.cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.prompt_learner, self.cfg.MODEL.INIT_WEIGHTS)
        self.optim = build_optimizer(self.model.prompt_learner, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def load_model(self, directory, epoch=None):
        if directory:
            path = f"{directory}/prompt_learner/model.pth.tar-{epoch}"
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            del state["token_suffix"]
            self.model.prompt_learner.load_state_dict(state, strict=False)


class Unnamed(Prompted):
    named = False


@TRAINER_REGISTRY.register()
class OldCode(Unnamed):
    """Written for torch 1.x, numpy 1.x and a GPU."""

    def make_model(self):
        from clip import legacy

        assert legacy.N_CTX == 1
        return super().make_model().cuda()


@TRAINER_REGISTRY.register()
class Half(Unnamed):
    """Mixes float32 and half precision, as MaPLe does with PREC fp32."""

    def make_model(self):
        model = super().make_model()
        model.prompt_learner.proj.half()
        return model


@TRAINER_REGISTRY.register()
class Aggregated(Unnamed):
    """Averages state dicts over epochs inside the training step and loads the average at the end, as PromptSRC does."""

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        if self.batch_idx + 1 == self.num_batches:
            state = copy.deepcopy(self.model.state_dict())
            if self.epoch == 0:
                self.average = {key: value.mul_(1 / self.max_epoch) for key, value in state.items()}
            else:
                for key, value in state.items():
                    self.average[key].add_(value, alpha=1 / self.max_epoch)
            if self.epoch + 1 == self.max_epoch:
                self.model.load_state_dict(self.average)
        return summary


class MovingAverage(Unnamed):
    """Tests a copy of the model that is its moving average."""

    def start_average(self):
        self.ema = copy.deepcopy(self.model).requires_grad_(False)

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        with torch.no_grad():
            for mean, value in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 0.5)
        return summary

    def model_inference(self, image):
        return self.ema(image)


@TRAINER_REGISTRY.register()
class EarlyAverage(MovingAverage):
    def build_model(self):
        super().build_model()
        self.start_average()


@TRAINER_REGISTRY.register()
class LateAverage(MovingAverage):
    def before_train(self):
        self.start_average()
        super().before_train()


@TRAINER_REGISTRY.register()
class TwoModels(Unnamed):
    """Trains two models separately; there is no ``self.model`` module."""

    def build_model(self):
        self.text_prompts, self.image_prompts = CustomCLIP(self.num_classes), CustomCLIP(self.num_classes)
        for name in ("text_prompts", "image_prompts"):
            model = getattr(self, name)
            for key, parameter in model.named_parameters():
                parameter.requires_grad_("ctx" in key)
            optimizer = build_optimizer(model, self.cfg.OPTIM)
            self.register_model(name, model, optimizer, build_lr_scheduler(optimizer, self.cfg.OPTIM))

    def model(self, image):
        return self.text_prompts(image) + self.image_prompts(image)


@TRAINER_REGISTRY.register()
class OwnOptimizer(Unnamed):
    """Trains its context at another learning rate."""

    def build_model(self):
        super().build_model()
        learner = self.model.prompt_learner
        groups = [{"params": [learner.ctx], "lr": 0.01}, {"params": learner.proj.parameters()}]
        self.optim = self._optims["prompt_learner"] = torch.optim.SGD(groups, lr=0.1)
        self._scheds["prompt_learner"] = build_lr_scheduler(self.optim, self.cfg.OPTIM)


@TRAINER_REGISTRY.register()
class Adapter(Unnamed):
    """Trains no prompt."""

    def build_model(self):
        self.model = CustomCLIP(self.num_classes).requires_grad_(False)
        self.model.text_encoder.requires_grad_(True)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.register_model("adapter", self.model, self.optim, None)


@TRAINER_REGISTRY.register()
class ZeroShot(Unnamed):
    def build_model(self):
        self.model = CustomCLIP(self.num_classes)
