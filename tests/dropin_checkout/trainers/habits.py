"""More trainers with one habit each: how they make, read, replace and save what they train."""

import copy

import torch
from dassl.engine import TRAINER_REGISTRY
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import nn
from torch.nn import functional as F

from .prompted import CustomCLIP, PromptLearner, Unnamed
from .zoo import with_model


def logits_outside(model, image):
    """Return the logits of `CustomCLIP`, without a call of its learner."""
    learner = model.prompt_learner
    prompts = learner.token_suffix + F.linear(learner.ctx, learner.proj.weight, learner.proj.bias).mean(0)
    features = F.normalize(model.text_encoder(prompts), dim=-1)
    return 10 * F.normalize(model.image_encoder(image.flatten(1)), dim=-1) @ features.t()


@TRAINER_REGISTRY.register()
class InferenceMode(Unnamed):
    @torch.inference_mode()
    def model_inference(self, image):
        return self.model(image)


@TRAINER_REGISTRY.register()
class Arrays(Unnamed):
    """Infers numpy arrays."""

    def model_inference(self, image):
        return self.model(image).detach().numpy()

    def test(self, split=None):
        return None


@TRAINER_REGISTRY.register()
class OwnTest(Unnamed):
    """Tests by other code than it infers with, which reads parameters outside of forward passes."""

    @torch.no_grad()
    def test(self, split=None):
        self.seen = logits_outside(self.model, torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


@TRAINER_REGISTRY.register()
class LoopOutside(Unnamed):
    """Trains in its own loop, with its parameters outside of a forward pass."""

    def train(self):
        for batch in self.train_loader_x:
            image, label = self.parse_batch_train(batch)
            self.optim.zero_grad()
            F.cross_entropy(logits_outside(self.model, image), label).backward()
            self.optim.step()


@TRAINER_REGISTRY.register()
class LateOptimizer(Unnamed):
    """Makes its optimizer when it trains."""

    def build_model(self):
        self.model = CustomCLIP(self.num_classes)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("prompt_learner" in name)
        self.register_model("prompt_learner", self.model.prompt_learner)

    def train(self):
        optimizer = torch.optim.Adam(self.model.prompt_learner.parameters(), lr=0.1)
        for batch in self.train_loader_x:
            image, label = self.parse_batch_train(batch)
            optimizer.zero_grad()
            F.cross_entropy(self.model(image), label).backward()
            optimizer.step()


class ViewLearner(PromptLearner):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.flat = self.ctx.view(-1)

    def forward(self):
        return super().forward() + self.flat.view_as(self.ctx).mean(0)


class ViewCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.prompt_learner = ViewLearner(n_classes)


@with_model(ViewCLIP)
class View(Unnamed):
    """Reads its context in its place, and through a view of it."""


@TRAINER_REGISTRY.register()
class Rebuilt(Unnamed):
    """Makes another learner when it trains."""

    def before_train(self):
        learner = self.model.prompt_learner = PromptLearner(self.num_classes)
        self.optim = self._optims["prompt_learner"] = build_optimizer(learner, self.cfg.OPTIM)
        self._scheds["prompt_learner"] = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self._models["prompt_learner"] = learner
        super().before_train()


@TRAINER_REGISTRY.register()
class CopiesInSteps(Unnamed):
    """Computes gradients with a copy of the model."""

    def forward_backward(self, batch):
        twin = copy.deepcopy(self.model)
        image, label = self.parse_batch_train(batch)
        loss = F.cross_entropy(twin(image), label)
        loss.backward()
        for own, other in zip(self.model.parameters(), twin.parameters(), strict=True):
            own.grad = other.grad
        self.optim.step()
        return {"loss": loss.item()}


@TRAINER_REGISTRY.register()
class ModelList(Unnamed):
    """Trains the models of a list; one is not registered."""

    def build_model(self):
        self.models = [CustomCLIP(self.num_classes) for _ in range(2)]
        for model in self.models:
            model.requires_grad_(False)
            model.prompt_learner.requires_grad_(True)
        self.optim = torch.optim.SGD([p for m in self.models for p in m.prompt_learner.parameters()], lr=0.1)
        self.register_model("first", self.models[0], self.optim, None)

    def model(self, image):
        return sum(model(image) for model in self.models)


class HookCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.prompt_learner.register_forward_pre_hook(self.remember)

    def remember(self, learner, _args):
        self.mean = learner.ctx.mean(0)


@with_model(HookCLIP)
class PreHook(Unnamed):
    """Reads its context in a hook of the learner, which it calls by itself."""

    def logits(self, image):
        model = self.model
        features = F.normalize(model.text_encoder(model.prompt_learner() + model.mean), dim=-1)
        return 10 * F.normalize(model.image_encoder(image.flatten(1)), dim=-1) @ features.t()

    model_inference = logits

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.logits(image), label)
        self.model_backward_and_update(loss)
        return {"loss": loss.item()}


@TRAINER_REGISTRY.register()
class WeightNorm(Unnamed):
    """Has a parametrization of its own."""

    def make_model(self):
        model = super().make_model()
        nn.utils.parametrizations.weight_norm(model.prompt_learner.proj)
        return model


@TRAINER_REGISTRY.register()
class LateParameter(Unnamed):
    """Adds a prompt in its first step."""

    def forward_backward(self, batch):
        learner = self.model.prompt_learner
        if not hasattr(learner, "ctx_late"):
            learner.ctx_late = nn.Parameter(torch.randn(4, 8))
        return super().forward_backward(batch)


@TRAINER_REGISTRY.register()
class ScriptedEncoder(Unnamed):
    def make_model(self):
        model = super().make_model()
        model.text_encoder = torch.jit.script(model.text_encoder)
        return model


@TRAINER_REGISTRY.register()
class ScriptedLearner(Unnamed):
    def make_model(self):
        model = super().make_model()
        model.prompt_learner = torch.jit.script(model.prompt_learner)
        return model
