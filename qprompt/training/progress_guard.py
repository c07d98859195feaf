"""Stops a run that would end without having learned anything."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from qprompt.errors import UserError

MOST_SKIPPED = 20  # steps in a row; a loss scale of 65536 is halved to 1 in 16


class ProgressGuard:
    """Watches the steps of a run: those that the gradient scaler skipped, and whether any weight moved.

    GradScaler skips a step with NaN or infinite gradients and lowers its scale, without a word. A few skipped steps are
    normal while it finds a scale; a scale below 1 or a long series means that no step will ever be taken.

    Attributes:
        steps: number of steps of the run.
        skipped: number of those that were skipped.
    """

    def __init__(
        self,
        learned: Iterable[tuple[str, Tensor]],
        scale: float | None = None,
        before: Mapping[str, Any] | None = None,
    ):
        """Watch a run that begins, or goes on.

        Args:
            learned: name and tensor of everything that is trained.
            scale: of the gradient scaler; None without a scaler.
            before: the `state` in the checkpoint from which the run goes on; None at the beginning, and where the
                checkpoint does not say it.
        """
        self.learned = list(learned)
        self.start = [tensor.detach().clone() for _, tensor in self.learned]
        known = before or {}
        self.steps, self.skipped, self.in_a_row = (known.get(key, 0) for key in ("steps", "skipped", "in_a_row"))
        self.moved_before = bool(known.get("moved"))
        self.scale = scale

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to know."""
        return {"steps": self.steps, "skipped": self.skipped, "in_a_row": self.in_a_row, "moved": self.moved()}

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
    def moved(self) -> bool:
        """Return whether a learned weight is not what it was at the beginning of the run."""
        if self.moved_before:
            return True
        return any(not torch.equal(a, b) for a, (_, b) in zip(self.start, self.learned, strict=True))

    def check_moved(self, fp32: str) -> None:
        """Raise UserError if steps were taken and every learned weight is still what it was.

        Args:
            fp32: what to type for that precision.
        """
        if self.steps and self.learned and not self.moved():
            names = ", ".join(name for name, _ in self.learned[:3])
            advice = f"type {fp32}, or a larger OPTIM.MAX_EPOCH" if self.skipped else "type a larger OPTIM.LR"
            raise UserError(
                f"{self.steps:,} training steps changed none of the learned weights ({names}; {self.skipped:,} steps "
                "were skipped for NaN or infinite gradients, each of which halves the loss scale): nothing was "
                f"learned, so there is no result: {advice}, and another --output-dir."
            )
