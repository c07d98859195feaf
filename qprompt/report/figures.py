"""All figures by name. Each has a function that returns None if there are no runs for it."""

from collections.abc import Callable, Sequence
from typing import Any

from qprompt.report.epochs import accuracy_over_epochs
from qprompt.report.plotting import styled
from qprompt.report.quantization import divergence_over_steps, weights_over_steps
from qprompt.report.scores import Score
from qprompt.report.shots import accuracy_over_shots
from qprompt.report.size import h_over_bytes

FIGURES: dict[str, tuple[str, Callable[[Sequence[Score]], Any]]] = {
    "epochs": (
        "Accuracy over epochs, a panel per method: mean over runs, band of one standard deviation; dotted: zero-shot",
        accuracy_over_epochs,
    ),
    "size": ("H against the bytes of the stored prompt; bars of one standard deviation", h_over_bytes),
    "weights": (
        "Histograms of the latent weights during training, each with its own scale; one run per method",
        weights_over_steps,
    ),
    "kl": (
        "KL between the weights now and at the last fit (ticks: fits), spread of the weights, quantization SNR",
        divergence_over_steps,
    ),
    "shots": ("Few-shot accuracy on all classes; bars of one standard deviation over runs", accuracy_over_shots),
}


def make_figures(scores: Sequence[Score], only: Sequence[str] = ()) -> dict[str, tuple[str, Any]]:
    """Return name -> (caption, matplotlib figure) for every figure (or those in `only`) that has runs."""
    with styled():
        made = {n: (caption, make(scores)) for n, (caption, make) in FIGURES.items() if not only or n in only}
    return {name: (caption, figure) for name, (caption, figure) in made.items() if figure is not None}
