"""Records quantization step by step: the data of the paper's figures, in a small file and in TensorBoard.

During a run, records are lines of ``<path>.part``, so a run that is killed and resumed neither loses nor repeats any.
`Recorder.close` turns them into one npz file, which `read` reads.
"""

import json
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qprompt.errors import UserError
from qprompt.io.files import atomic_open, parse_json
from qprompt.quantization.api import quantized_parameters
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.measuring import Measured

QUANTITIES = ("mu", "sigma", "kl", "mse", "snr_db", "refit")
BINS = 64
LARGEST_RECORD = 2**28  # bytes that are read
LARGEST_CODEBOOK = 4096  # entries; larger ones (many groups) are not recorded


class Recorder:
    """Records the quantized tensors of a module.

    The npz file holds, for T tensors and the S recorded steps (every `every`-th step and each step with a fit):

    - ``name`` (T,), ``step`` (S,)
    - ``mu``, ``sigma`` (S, T): of the full-precision weights, averaged over the groups where there are several
    - ``kl`` (S, T): KL(P_now || P_ref) in nats, against the last fit; NaN before the first
    - ``mse``, ``snr_db`` (S, T): mean of (W_q - W)^2, and 10 log10(mean W^2 / mse), infinite where mse is 0
    - ``refit`` (S, T): whether the levels were fitted in this step
    - ``codebook_step/NAME`` (F,) and ``codebook/NAME`` (F, G, k): the normalized levels of each fit
    - ``histogram_step/NAME`` (H,), ``histogram_range/NAME`` (H, 2) and ``histogram/NAME`` (H, 64): counts of the
      full-precision weights in equal bins, wherever `histogram` was called or at `histogram_steps`

    TensorBoard gets the same as scalars ``quantization/NAME/...``, and as histograms.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        writer: Any = None,
        every: int = 10,
        histogram_steps: tuple[int, ...] = (),
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.writer, self.every, self.histogram_steps = writer, every, frozenset(histogram_steps)
        self._started = False

    @torch.no_grad()
    def step(self, module: nn.Module, refitted: Iterable[str] = ()) -> None:
        """Record a step. Call it after `refresh_`, with the names that it returned."""
        measured = self.measure(module, refitted)
        if measured is not None:
            self.write(measured, measured.numbers.cpu().numpy())

    @torch.no_grad()
    def measure(self, module: nn.Module, refitted: Iterable[str] = ()) -> Measured | None:
        """Do the work of `step` on the device, without waiting for it; None if the step is not recorded.

        A training loop that reads the loss anyway reads the numbers with it, and gives them to `write`.
        """
        quantized = _recorded(module)
        number = _last_step(quantized)
        if number in self.histogram_steps:
            self.histogram(module)
        fitted = set(refitted) | {name for name, (fake, _) in quantized.items() if number == 0 and fake.fits}
        if number % self.every and not fitted:
            return None
        recorded = [name for name in fitted if name in quantized]
        codebooks = [name for name in recorded if quantized[name][0].codebook.numel() <= LARGEST_CODEBOOK]
        return Measured.of(number, quantized, fitted, codebooks)

    def write(self, measured: Measured, numbers: np.ndarray) -> None:
        """Record what `measure` returned, with its numbers on the host."""
        rows, codebooks = measured.on_host(numbers)
        for name, levels in codebooks.items():
            self._append(measured.number, codebook={name: levels})
        for name, values in rows.items() if self.writer is not None else ():
            for quantity, value in zip(QUANTITIES, values, strict=True):
                if math.isfinite(value):
                    self.writer.add_scalar(f"quantization/{name}/{quantity}", value, measured.number)
        self._append(measured.number, rows=rows)

    @torch.no_grad()
    def histogram(self, module: nn.Module) -> None:
        """Record the histogram of the full-precision weights as they are now, e.g. every fifth epoch."""
        quantized = _recorded(module)
        number = _last_step(quantized)
        for name, (_, weight) in quantized.items():
            w = weight.detach().float().cpu()
            if not bool(w.isfinite().all()):  # the training step stops on it and names it; a diagnostic does not
                continue
            low, high = w.min().item(), w.max().item()
            counts = torch.histc(w, BINS, low, high).long().tolist()
            self._append(number, histogram={name: [[low, high], counts]})
            if self.writer is not None:
                # Raw, so that TensorBoard shows these bins; add_histogram of torch 1.13 fails on numpy from 1.24 on.
                ends = np.linspace(low, high, BINS + 1)[1:].tolist()
                moments = w.numel(), w.sum().item(), w.square().sum().item()
                self.writer.add_histogram_raw(f"quantization/{name}", low, high, *moments, ends, counts, number)

    def close(self) -> None:
        """Write the npz file atomically and remove the lines that it was made from."""
        if not self.part.exists():
            return
        try:
            arrays = _arrays(_lines(self.part))
            "".join(arrays).encode()  # names are those of files
        except Exception as error:  # whatever damage brings about
            raise UserError(f"{self.part} is damaged ({error}): delete it; the run continues without it.") from None
        with atomic_open(self.path) as file:
            np.savez_compressed(file, **arrays)
        self.part.unlink()

    def _append(self, number: int, **record: Any) -> None:
        if not self._started:
            # Steps after the checkpoint that an interrupted run resumes from are recorded again.
            kept = [line for line in _lines(self.part) if line["step"] < number] if self.part.exists() else []
            with atomic_open(self.part) as file:
                file.writelines(json.dumps(line).encode() + b"\n" for line in kept)
            self._started = True
        with open(self.part, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": number, **record}) + "\n")


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a file that a `Recorder` wrote; UserError if it is not one."""
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    # A damaged file can raise nearly anything on its way.
    except Exception as error:
        raise UserError(f"{path} is not the record of a quantized run: {error or type(error).__name__}") from None
    if "step" not in arrays or "name" not in arrays:
        raise UserError(f"{path} is not the record of a quantized run: it has no steps")
    return arrays


def _check_sizes(path: str | os.PathLike[str]) -> None:
    """Raise ValueError unless each array of an npz file has the size that it claims, and all fit LARGEST_RECORD."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                size = math.prod(shape) * dtype.itemsize
                if min(shape, default=0) < 0 or size != info.file_size - file.tell():
                    raise ValueError(f"{info.filename} is not as long as it says")
            total += size
    if total > LARGEST_RECORD:
        raise ValueError(f"it unpacks to {total:,} bytes")


def _recorded(module: nn.Module) -> dict[str, tuple[FakeQuantize, nn.Parameter]]:
    """Return the quantized tensors with levels; all of them if none has any (16 bits)."""
    quantized = quantized_parameters(module)
    return {name: pair for name, pair in quantized.items() if pair[0].config.levels} or quantized


def _last_step(quantized: dict[str, Any]) -> int:
    """Return the number of the step that refresh_ counted last, from 0."""
    return max((fake.step for fake, _ in quantized.values()), default=1) - 1


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a part file; a killed run may leave half a line at the end."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [parse_json(line) for line in lines if line.endswith("\n")]
        if not all(isinstance(line, dict) and isinstance(line["step"], int) for line in found):
            raise ValueError("a line has no step")
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it; the run continues without it.") from None
    return found


def _arrays(lines: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [(line["step"], line["rows"]) for line in lines if "rows" in line]
    names = list(rows[0][1]) if rows else []
    table = np.array([[row[name] for name in names] for _, row in rows], dtype=np.float32)
    table = table.reshape(len(rows), len(names), len(QUANTITIES))
    arrays: dict[str, Any] = {
        "name": np.array(names, dtype=np.str_),
        "step": np.array([number for number, _ in rows], dtype=np.int64),
    }
    arrays |= {quantity: table[..., i] for i, quantity in enumerate(QUANTITIES)}
    arrays["refit"] = arrays["refit"].astype(bool)
    collected: dict[str, list[Any]] = {}
    for line in lines:
        for name, levels in line.get("codebook", {}).items():
            collected.setdefault(f"codebook_step/{name}", []).append(line["step"])
            collected.setdefault(f"codebook/{name}", []).append(levels)
        for name, (ends, counts) in line.get("histogram", {}).items():
            collected.setdefault(f"histogram_step/{name}", []).append(line["step"])
            collected.setdefault(f"histogram_range/{name}", []).append(ends)
            collected.setdefault(f"histogram/{name}", []).append(counts)
    return arrays | {key: np.array(values) for key, values in collected.items()}
