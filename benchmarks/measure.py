"""What the benchmarks share: timing side by side, memory kept for backward, the machine's matrix rate."""

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
    """CPU time of this process and of programs that it ran to their end (a compiler's): on a shared machine it says
    more than the time of day. On a GPU: wall time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def side_by_side(calls, repeat, warm=True):
    """{name: function} -> {name: (median, fastest, slowest) in seconds}; they take turns.

    `warm`: each runs once unmeasured just before. A step of training comes after one of its own kind; what another kind
    leaves in the caches and on the heap is not its cost.
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
    """Bytes that autograd keeps between `forward()` and its backward pass, the weights in `frozen` apart."""
    ours = {p.untyped_storage().data_ptr() for p in frozen}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(sizes.values())


class LiveTensors(TorchDispatchMode):
    """While it is on: bytes of all tensors that are alive, those in `known` included, and the `peak` of it."""

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

        def gone(_):
            self.now -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, gone)

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves((arguments, result)):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result


class Operations(TorchDispatchMode):
    """While it is on: `count` of the operations that are more than another view of the same numbers."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += not function.is_view
        return function(*arguments, **(keywords or {}))


def matrix_rates(size=1024, seconds=1.0):
    """Best measured FLOP/s of a square fp32 product: PyTorch's own, and what the floor is counted with, the faster of
    that and of the library that our encoders take on this CPU."""
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


def with_mkl_alone(call):
    """`call` where no product takes oneDNN, as on Intel's CPUs and on those without AVX-512."""
    with mock.patch.object(onednn_linear, "onednn_is_faster", lambda: False):
        return call()


@contextmanager
def reference(on):
    """The plain path (QPROMPT_REFERENCE=1), or the fast one."""
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
    """``trainers.<module>`` of an unmodified CoOp or MaPLe checkout, with the checkout's own clip, not registered.

    PREC fp32 of MaPLe's repository still rounds prompts to fp16, which a CPU can't multiply with fp32: the casts
    are taken out here.
    """
    import_clip()
    ours = {name: m for name, m in sys.modules.items() if name.split(".")[0] in ("clip", "trainers")}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(Path(checkout).resolve()))
    torch.Tensor.half, torch.nn.Module.half = torch.Tensor.float, torch.nn.Module.float
    from dassl.engine import TRAINER_REGISTRY

    TRAINER_REGISTRY.register = lambda *_, **__: lambda trainer: trainer  # its names are ours as well
    try:
        return importlib.import_module(f"trainers.{module}")
    finally:
        del TRAINER_REGISTRY.register
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.split(".")[0] in ("clip", "trainers")]:
            del sys.modules[name]
        sys.modules.update(ours)


def machine():
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
    """Write results. Rows of other cases (that differ in `keys`) stay if this machine and these versions made them."""
    path, now = RESULTS / f"{name}.json", machine()
    before = json.loads(path.read_text()) if keys and path.exists() else {"machine": None}
    cases = [[row[key] for key in keys] for row in rows]
    if before["machine"] == now:
        rows = rows + [row for row in before["rows"] if [row[key] for key in keys] not in cases]
    write_json(path, {"machine": now, **more, "rows": rows})
    print(f"Wrote {path}")
