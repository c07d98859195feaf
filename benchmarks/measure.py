"""Shared by the benchmarks: timing in turns, memory saved for backward, the machine's rate of matrix products."""

import importlib
import json
import os
import platform
import resource
import statistics
import sys
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qprompt.backbones import import_clip  # noqa: E402
from qprompt.io.files import write_json  # noqa: E402
from qprompt.prompted_clip import onednn_linear  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"


def clock():
    """Return seconds of CPU time of this process and its finished child processes (a compiler's); wall time on a GPU.

    On a shared machine, CPU time varies less than wall time.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def side_by_side(calls, repeat, warm=True):
    """Time functions in turns.

    Args:
        calls: {name: function}.
        repeat: Number of turns.
        warm: Call each function once, without timing, just before it is timed. A training step follows a step of the
            same kind, so what another kind leaves in caches and on the heap is not part of its cost.

    Returns:
        {name: (median, fastest, slowest)} in seconds.
    """
    seconds = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            if warm:
                call()
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: (statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def saved_for_backward(forward, frozen=()):
    """Return the bytes that autograd saves in `forward()` for its backward pass, without the weights in `frozen`."""
    excluded = {p.untyped_storage().data_ptr() for p in frozen}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(sizes.values())


class LiveTensors(TorchDispatchMode):
    """Context manager that tracks the bytes of all live tensors (`now`) and their `peak`, with those in `known`."""

    def __init__(self, known):
        super().__init__()
        self.now = self.peak = 0
        self.storages = {}
        for tensor in known:
            self.add(tensor)

    def add(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.storages:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def remove(_):
            self.now -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, remove)

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves((arguments, result)):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result


class Operations(TorchDispatchMode):
    """Context manager that counts operations (`count`), except views."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += not function.is_view
        return function(*arguments, **(keywords or {}))


def matrix_rates(size=1024, seconds=1.0):
    """Return the best measured FLOP/s of a square fp32 matrix product.

    "torch" is PyTorch's default library, "best" the faster of that and the library that the encoders use on this CPU.
    """
    a, b, bias = torch.randn(size, size), torch.randn(size, size), torch.zeros(size)
    rates = []
    for multiply in (torch.nn.functional.linear, onednn_linear.linear):
        best, end = float("inf"), clock() + seconds
        while clock() < end:
            start = clock()
            multiply(a, b, bias)
            best = min(best, clock() - start)
        rates.append(2 * size**3 / best)
    return {"torch": rates[0], "best": max(rates)}


def without_onednn(call):
    """Call without oneDNN, as on Intel CPUs and on CPUs without AVX-512."""
    with mock.patch.object(onednn_linear, "onednn_is_faster", lambda: False):
        return call()


@contextmanager
def reference(on):
    """Use the plain path (QPROMPT_REFERENCE=1) or the fast path inside the block."""
    before = os.environ.get("QPROMPT_REFERENCE")
    os.environ["QPROMPT_REFERENCE"] = "1" if on else "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["QPROMPT_REFERENCE"]
        else:
            os.environ["QPROMPT_REFERENCE"] = before


def upstream(checkout, module):
    """Import ``trainers.<module>`` of an unmodified CoOp or MaPLe checkout, with its own clip, without registering it.

    With PREC fp32, MaPLe's repository still rounds prompts to fp16, which a CPU cannot multiply with fp32. The casts
    are removed here.
    """
    import_clip()
    own = {name: m for name, m in sys.modules.items() if name.split(".")[0] in ("clip", "trainers")}
    for name in own:
        del sys.modules[name]
    sys.path.insert(0, str(Path(checkout).resolve()))
    torch.Tensor.half, torch.nn.Module.half = torch.Tensor.float, torch.nn.Module.float
    from dassl.engine import TRAINER_REGISTRY

    TRAINER_REGISTRY.register = lambda *_, **__: lambda trainer: trainer  # names that this project registers too
    try:
        return importlib.import_module(f"trainers.{module}")
    finally:
        del TRAINER_REGISTRY.register
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.split(".")[0] in ("clip", "trainers")]:
            del sys.modules[name]
        sys.modules.update(own)


def machine():
    """Return the machine and the versions that results depend on."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "wall time" if torch.cuda.is_available() else "CPU time of the process",
    }


def save(name, rows, keys=(), **more):
    """Write results/<name>.json.

    Rows of other cases, which differ in `keys`, stay if they were measured on this machine with these versions.
    """
    path, now = RESULTS / f"{name}.json", machine()
    before = json.loads(path.read_text()) if keys and path.exists() else {"machine": None}
    cases = [[row[key] for key in keys] for row in rows]
    if before["machine"] == now:
        rows = rows + [row for row in before["rows"] if [row[key] for key in keys] not in cases]
    write_json(path, {"machine": now, **more, "rows": rows})
    print(f"Wrote {path}")
