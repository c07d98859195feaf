"""Rectified Adam (arXiv 1908.03265) and AdamW with a warm-up, under Dassl's names."""

import math

import torch
from torch.optim.optimizer import Optimizer


class RAdam(Optimizer):
    """Adam with a rectified learning rate, and decoupled weight decay.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the denominator.
        weight_decay: share of the weights, times `lr`, to subtract in a step.
        degenerated_to_sgd: whether the first steps, whose variance is unknown, use the first moment alone; otherwise
            they change nothing.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, degenerated_to_sgd=True):
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"invalid lr {lr}, eps {eps} or betas {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.degenerated_to_sgd = degenerated_to_sgd

    @torch.no_grad()
    def step(self, closure=None):
        """Make a step; return the loss of `closure`, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p, group):
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p.float()), exp_avg_sq=torch.zeros_like(p.float()))
        gradient = p.grad.float()
        state["step"] += 1
        t, mean, square = state["step"], state["exp_avg"], state["exp_avg_sq"]
        mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        limit = 2 / (1 - beta2) - 1  # of the length of the moving average
        length = limit - 2 * t * beta2**t / (1 - beta2**t)
        rectified = length >= 5
        if not rectified and not self.degenerated_to_sgd:
            return
        weight = p.float()
        weight.mul_(1 - group["weight_decay"] * group["lr"])
        size = group["lr"] / (1 - beta1**t)
        if rectified:
            rectification = (length - 4) / (limit - 4) * (length - 2) / length * limit / (limit - 2)
            size *= math.sqrt(rectification * (1 - beta2**t))
            weight.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-size)
        else:
            weight.add_(mean, alpha=-size)
        p.copy_(weight)


class PlainRAdam(RAdam):
    """Dassl's name for an implementation of `RAdam` without a cache; the steps are the same."""


class AdamW(torch.optim.AdamW):
    """AdamW whose learning rate rises linearly during the first `warmup` steps."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, warmup=0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.warmup, self.steps = warmup, 0

    def step(self, closure=None):
        """Make a step; return the loss of `closure`, if there is one."""
        self.steps += 1
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= min(1.0, self.steps / self.warmup) if self.warmup else 1.0
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
