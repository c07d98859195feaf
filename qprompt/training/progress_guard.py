"""Stops a run that would end without having learned anything."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qprompt.errors import UserError

MOST_SKIPPED = 20  # steps in a row; a loss scale of 65536 is halved to 1 in 16


class ProgressGuard:
    """Watches the steps of a run: those that the gradient scaler skipped, and whether any weight moved.

    GradScaler skips a step with NaN or infinite gradients and lowers its scale, without a word. A few skipped steps are
    normal while it finds a scale; a scale below 1 or a long series means that no step will ever be taken.

    Attributes:
        steps: number of steps of this process.
        skipped: number of those that were skipped.
    """

    def __init__(self, learned: Iterable[tuple[str, Tensor]], scale: float | None = None):
        self.start = [(name, tensor.detach().clone()) for name, tensor in learned]
        self.steps = self.skipped = self.in_a_row = 0
        self.scale = scale

    def observe(self, scale: float | None = None) -> bool:
        """Count a step; return whether the run must stop, since steps are skipped again and again.

        Args:
            scale: of the gradient scaler after the step; None without a scaler.
        """
        self.steps += 1
        skipped = scale is not None and self.scale is not None and scale < self.scale
        self.scale = scale
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.skipped += skipped
        return skipped and (self.in_a_row >= MOST_SKIPPED or (scale or 0.0) < 1.0)

    @torch.no_grad()
    def check_moved(self, learned: Iterable[tuple[str, Tensor]]) -> None:
        """Raise UserError if steps were taken and every learned weight is still what it was."""
        moved = any(not torch.equal(a, b) for (_, a), (_, b) in zip(self.start, learned, strict=True))
        if self.steps and self.start and not moved:
            names = ", ".join(name for name, _ in self.start[:3])
            raise UserError(
                f"{self.steps:,} training steps changed none of the learned weights ({names}; {self.skipped:,} steps "
                "were skipped for NaN or infinite gradients): nothing was learned, so there is no result. "
                "Check OPTIM.LR, or train with PREC fp32."
            )
