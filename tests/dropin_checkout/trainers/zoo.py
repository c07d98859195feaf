"""Trainers that do with their prompts what trainers of others do: each with one habit."""

import copy
import os

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import nn
from torch.nn import functional as F

from .prompted import CustomCLIP, PromptLearner, Unnamed


def with_model(model):
    """Return a decorator that registers a trainer with the model class `model`."""

    def register(cls):
        cls.make_model = lambda self: model(self.num_classes)
        return TRAINER_REGISTRY.register(cls)

    return register


class ClosureCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        learner, ctx = self.prompt_learner, self.prompt_learner.ctx
        self.prompts = lambda: learner.token_suffix + learner.proj(ctx).mean(0)

    def forward(self, image):
        text_features = F.normalize(self.text_encoder(self.prompts()), dim=-1)
        return 10 * F.normalize(self.image_encoder(image.flatten(1)), dim=-1) @ text_features.t()


@with_model(ClosureCLIP)
class Closure(Unnamed):
    """Reads its context through a closure."""


class BothCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        ctx = self.prompt_learner.ctx
        self.bias = lambda: ctx.mean()

    def forward(self, image):
        return super().forward(image) * (1 + self.bias())


@with_model(BothCLIP)
class ClosureToo(Unnamed):
    """Reads its context in its place, and through a closure."""


class ListCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.text_encoder.contexts = [self.prompt_learner.ctx]

    def forward(self, image):
        return super().forward(image) * (1 + self.text_encoder.contexts[0].mean())


@with_model(ListCLIP)
class SecondPlace(Unnamed):
    """Reads its context from a list in another module too."""


class OutsideCLIP(CustomCLIP):
    def text_features(self):
        learner = self.prompt_learner
        return self.text_encoder(learner.token_suffix + (learner.ctx @ learner.proj.weight).mean(0))


@with_model(OutsideCLIP)
class OutsideForward(Unnamed):
    """Reads its context in a method that is not part of a forward pass."""

    def model_inference(self, image):
        return self.model.image_encoder(image.flatten(1)) @ self.model.text_features().t()


class WritingLearner(PromptLearner):
    def forward(self):
        self.ctx.data.clamp_(-0.01, 0.01)
        return super().forward()


class WritingCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.prompt_learner = WritingLearner(n_classes)


@with_model(WritingCLIP)
class WritesInForward(Unnamed):
    """Changes its context in the forward pass."""


class SharedCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.text_encoder.context = self.prompt_learner.ctx

    def forward(self, image):
        return super().forward(image) * (1 + self.text_encoder.context.mean())


@with_model(SharedCLIP)
class Shared(Unnamed):
    """Has one parameter in two modules, and reads both."""


@TRAINER_REGISTRY.register()
class WritesData(Unnamed):
    """Sets its context through ``.data`` before it trains."""

    def before_train(self):
        self.model.prompt_learner.ctx.data.copy_(torch.linspace(-1, 1, 32).view(4, 8))
        super().before_train()


@TRAINER_REGISTRY.register()
class GradientsOfTheLeaf(Unnamed):
    """Differentiates with respect to its parameters itself, and updates them without an optimizer."""

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        learner = self.model.prompt_learner
        assert learner.ctx.is_leaf
        loss = F.cross_entropy(self.model(image), label)
        (gradient,) = torch.autograd.grad(loss, [learner.ctx], retain_graph=True)
        loss.backward()
        assert torch.equal(gradient, learner.ctx.grad)
        for parameter in learner.parameters():
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None
        return {"loss": loss.item()}


@TRAINER_REGISTRY.register()
class NamedRates(Unnamed):
    """Treats its parameters by their names."""

    def forward_backward(self, batch):
        rates = {}
        for name, parameter in self.model.named_parameters():
            if name == "prompt_learner.ctx":
                rates[name] = 0.5
            elif parameter.requires_grad:
                rates[name] = 0.1
        image, label = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model(image), label)
        parameters = dict(self.model.named_parameters())
        self.rates = rates
        for name, gradient in zip(rates, torch.autograd.grad(loss, [parameters[n] for n in rates]), strict=True):
            parameters[name].data.sub_(rates[name] * gradient)
        return {"loss": loss.item()}


@TRAINER_REGISTRY.register()
class MetaLearner(Unnamed):
    """Makes a step on a clone of the model, and differentiates through the step."""

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        clone = cloned(self.model)
        inner = F.cross_entropy(clone(image), label)
        learner = clone.prompt_learner
        (gradient,) = torch.autograd.grad(inner, [learner.ctx], create_graph=True)
        learner._parameters["ctx"] = learner.ctx - 0.1 * gradient
        self.model_backward_and_update(F.cross_entropy(clone(image), label))
        return {"loss": inner.item()}


def cloned(module):
    """Return a module of the same attributes whose parameters are computed from those of `module`."""
    clone = module.__new__(type(module))
    clone.__dict__ = module.__dict__.copy()
    clone._parameters = {name: value.clone() for name, value in module._parameters.items() if value is not None}
    clone._modules = {name: cloned(child) for name, child in module._modules.items()}
    return clone


class Shadow:
    """A moving average by name, in place of the parameters while the model is tested."""

    def __init__(self, model):
        self.values = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def update(self, model):
        for name, value in model.named_parameters():
            if value.requires_grad:
                self.values[name].lerp_(value.detach(), 0.5)

    def swap(self, model):
        for name, value in model.named_parameters():
            if value.requires_grad:
                self.values[name], value.data = value.data, self.values[name]


@TRAINER_REGISTRY.register()
class AverageByName(Unnamed):
    def build_model(self):
        super().build_model()
        self.shadow = Shadow(self.model)

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        self.shadow.update(self.model)
        return summary

    def after_train(self):
        self.shadow.swap(self.model)
        super().after_train()


class Average:
    """A moving average as a copy of the model; not a module itself."""

    def __init__(self, model):
        self.model = copy.deepcopy(model).requires_grad_(False)

    def update(self, model):
        for mean, value in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.data.lerp_(value.data, 0.5)


@TRAINER_REGISTRY.register()
class AverageObject(Unnamed):
    def build_model(self):
        super().build_model()
        self.average = Average(self.model)

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        self.average.update(self.model)
        return summary

    def model_inference(self, image):
        return self.average.model(image)


@TRAINER_REGISTRY.register()
class Exits(Unnamed):
    """Ends the process in its test."""

    def test(self, split=None):
        super().test(split)
        print("tested", flush=True)
        os._exit(0)


@TRAINER_REGISTRY.register()
class Forked(Unnamed):
    """Calls its test as a Dassl of its own allows."""

    def after_train(self):
        self.test(is_final=True)


@TRAINER_REGISTRY.register()
class Saves(Unnamed):
    """Saves by itself, in each step and after training."""

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        torch.save({"step": {"weights": self.model.state_dict()}, "lr": 1.0}, f"{self.output_dir}/step.pt")
        torch.save([self.model.prompt_learner.ctx, self.model.prompt_learner.ctx.detach().half()], self.bare)
        other = {k: 2 * v for k, v in self.model.state_dict().items()}
        torch.save(other, f"{self.output_dir}/doubled.pt")
        return summary

    @property
    def bare(self):
        return f"{self.output_dir}/bare.pt"

    def after_train(self):
        torch.save(self.model.state_dict(), f"{self.output_dir}/after.pt")
        super().after_train()


@TRAINER_REGISTRY.register()
class Remembers(Unnamed):
    """Keeps a memory of features in an attribute, and a running mean in a buffer."""

    def build_model(self):
        super().build_model()
        self.model.memory = torch.rand(3)
        self.model.mask = torch.full((2,), float("-inf"))
        self.model.prompt_learner.register_buffer("mean", torch.zeros(3))

    def forward_backward(self, batch):
        self.model.memory = self.model.memory.lerp(torch.rand(3), 0.1)
        self.model.prompt_learner.mean += 1
        return super().forward_backward(batch)


@TRAINER_REGISTRY.register()
class OwnLoop(Unnamed):
    """Has its own loop, which calls no hook and saves nothing."""

    def train(self):
        self.set_model_mode("train")
        for _ in range(6):
            for batch in self.train_loader_x:
                image, label = self.parse_batch_train(batch)
                loss = F.cross_entropy(self.model(image), label)
                self.optim.zero_grad()
                loss.backward()
                self.optim.step()


@TRAINER_REGISTRY.register()
class TwoOptimizers(Unnamed):
    def build_model(self):
        super().build_model()
        learner = self.model.prompt_learner
        self.optim = self._optims["prompt_learner"] = torch.optim.SGD([learner.ctx], lr=0.1)
        self._scheds["prompt_learner"] = None
        self.others = [torch.optim.Adam(learner.proj.parameters(), lr=0.01)]

    def forward_backward(self, batch):
        self.others[0].zero_grad()
        summary = super().forward_backward(batch)
        self.others[0].step()
        return summary


class TupleCLIP(CustomCLIP):
    def forward(self, image):
        logits = super().forward(image)
        return logits, {"again": [logits]}, "words"


@with_model(TupleCLIP)
class Tuples(Unnamed):
    """Its model returns more than logits."""

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model(image)[0], label)
        self.model_backward_and_update(loss)
        return {"loss": loss.item()}

    @torch.no_grad()
    def test(self, split=None):
        self.set_model_mode("eval")
        self.evaluator.reset()
        for batch in self.test_loader:
            image, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(image)[0], label)
        return next(iter(self.evaluator.evaluate().values()))


class CachingCLIP(CustomCLIP):
    text_features = None

    def forward(self, image):
        if self.prompt_learner.training:
            return super().forward(image)
        if self.text_features is None:
            self.text_features = F.normalize(self.text_encoder(self.prompt_learner()), dim=-1)
        return 10 * F.normalize(self.image_encoder(image.flatten(1)), dim=-1) @ self.text_features.t()


@with_model(CachingCLIP)
class Caching(Unnamed):
    """Keeps the text features of its first inference."""


class ExtrasCLIP(CustomCLIP):
    """Trains what is not a prompt, inside and outside of its learner."""

    def __init__(self, n_classes):
        super().__init__(n_classes)
        learner = self.prompt_learner
        learner.layer_scales = nn.Parameter(torch.ones(3, 1, 1, 1))
        learner.permutation_logits = nn.Parameter(torch.zeros(5, 5))
        learner.projector = nn.Conv2d(8, 8, 1)
        learner.adaptor = nn.Linear(8, 8)
        self.representation_learner = nn.Module()
        self.representation_learner.compound_rep_tokens = nn.Parameter(torch.randn(2, 8))
        self.context_model = nn.Linear(8, 8)  # on the path, not the name of a prompt
        self.context_model.inner = nn.Linear(8, 8)

    def forward(self, image):
        learner, extra = self.prompt_learner, self.representation_learner.compound_rep_tokens.mean()
        logits = super().forward(image) * (1 + extra + learner.permutation_logits.mean() + learner.layer_scales.mean())
        return logits + self.context_model.inner(self.context_model(learner.adaptor(learner.ctx))).mean()


@TRAINER_REGISTRY.register()
class Extras(Unnamed):
    def make_model(self):
        return ExtrasCLIP(self.num_classes)

    def build_model(self):
        self.model = self.make_model()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("encoder" not in name)
        self.optim = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=0.1)
        self.register_model("model", self.model, self.optim, None)


@TRAINER_REGISTRY.register()
class StepsOnly(Unnamed):
    """Is trained by its ``test``, with steps that no hook follows; then it ends the process."""

    def test(self, split=None):
        self.batch_idx, self.num_batches = 0, 2
        self.forward_backward(next(iter(self.train_loader_x)))
        os._exit(0)


class SpareCLIP(CustomCLIP):
    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.prompt_learner.ctx_spare = nn.Parameter(torch.randn(4, 8))


@with_model(SpareCLIP)
class Spare(Unnamed):
    """Has a context that its settings do not use."""


@TRAINER_REGISTRY.register()
class TrainsOutside(Unnamed):
    """Infers in a forward pass, and trains with its parameters outside of one."""

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        model, learner = self.model, self.model.prompt_learner
        text_features = model.text_encoder(learner.token_suffix + learner.proj(learner.ctx).mean(0))
        loss = F.cross_entropy(model.image_encoder(image.flatten(1)) @ text_features.t(), label)
        self.model_backward_and_update(loss)
        return {"loss": loss.item()}
