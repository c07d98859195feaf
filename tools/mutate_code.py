"""Mutation testing: put one small fault at a time into a module and see whether its tests fail.

  python tools/mutate_code.py [--modules qprompt.quantization.kmeans ...] [--lines 42 ...] [--sample 100] [--seed 0]

A fault is another comparison or operator, a number off by one, a negated condition, or a removed call. For each one the
module's test files run, quick tests first, up to the first failure or a limit of processor time (which stops endless
loops). They run in a fork of a process that has imported everything but the project. Faults that no test notices are
printed with their line.
"""

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from mutants import mutants

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

FAKE_QUANT = ["test_batching.py", "test_fake_quant_edges.py", "test_fake_quant.py", "test_fake_quant_modules.py"]
TESTS = {
    "qprompt.quantization.kmeans": ["test_kmeans.py", "test_quantizers.py"],
    "qprompt.quantization.codebook": ["test_kmeans.py", "test_batching.py", "test_fake_quant.py"],
    "qprompt.quantization.quantizers": ["test_quantizers.py", "test_fake_quant.py"],
    "qprompt.quantization.api": FAKE_QUANT[1:],
    "qprompt.quantization.fake_quantize": FAKE_QUANT,
    "qprompt.quantization.quantizer_state": FAKE_QUANT,
    "qprompt.quantization.straight_through": FAKE_QUANT,
    "qprompt.quantization.encoding": FAKE_QUANT,
    "qprompt.quantization.batching": FAKE_QUANT,
    "qprompt.prompted_clip.onednn_linear": ["test_onednn_linear.py"],
    "qprompt.prompt_files.bits": ["test_packing.py"],
    "qprompt.prompt_files.packing": ["test_packing.py", "test_checkpoints.py"],
    "qprompt.prompt_files.format": ["test_packing.py"],
}
PYTEST = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
PYTEST += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is imported already


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module from a given source."""

    def __init__(self, name: str, source: str):
        self.name, self.source = name, source

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module):
        exec(compile(self.source, f"<mutated {self.name}>", "exec"), module.__dict__)


class _QuickFirst:
    """Plugin of pytest that orders tests by their seconds in an earlier run and measures them."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.measured = seconds, dict[str, float]()

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report):
        self.measured[report.nodeid] = self.measured.get(report.nodeid, 0.0) + report.duration


def survives(name: str, source: str, cpu_seconds: int, seconds: dict[str, float], measure: str = "") -> bool:
    """Return whether the module's tests pass with its source replaced.

    Args:
        name: Name of the module.
        source: Its new source.
        cpu_seconds: Limit of processor time.
        seconds: Test -> seconds it takes.
        measure: File to write the seconds of each test and the names of the imported modules to; "": none.
    """
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        code = 1
        try:
            sys.meta_path.insert(0, _Mutated(name, source))
            plugin = _QuickFirst(seconds)
            code = pytest.main([*PYTEST, *(str(ROOT / "tests" / file) for file in TESTS[name])], plugins=[plugin])
            if measure:
                modules = [m for m, loaded in sys.modules.items() if _is_of_another_project(loaded)]
                Path(measure).write_text(json.dumps([plugin.measured, modules]))
        finally:
            os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _is_of_another_project(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and not Path(file).is_relative_to(ROOT)


def measured(name: str, source: str) -> tuple[int, dict[str, float]]:
    """Run the tests without a fault; return a limit of processor seconds and the seconds of each test.

    Imports here the modules of other projects that the tests imported.
    """
    with tempfile.NamedTemporaryFile() as file:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert survives(name, source, 600, {}, file.name), f"the tests of {name} fail without any fault"
        limit = 10 + 3 * int(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        seconds, modules = json.loads(Path(file.name).read_text())
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    return limit, seconds


def run(name: str, lines: list[int] | None, sample: int, seed: int) -> None:
    """Test the faults of one module and print those that survive."""
    path = ROOT / Path(*name.split(".")).with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    faults = [fault for fault in mutants(source) if not lines or fault[0] in lines]
    if sample and len(faults) > sample:
        faults = sorted(random.Random(seed).sample(faults, sample))
    limit, seconds = measured(name, ast.unparse(ast.parse(source)))
    began, survivors = time.monotonic(), 0
    for line, what, mutated in faults:
        if survives(name, mutated, limit, seconds):
            survivors += 1
            print(f"{path.name}:{line}: {what}", flush=True)
    took = time.monotonic() - began
    caught = len(faults) - survivors
    print(f"{name}: {len(faults)} faults, {caught} caught, {survivors} not ({took:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--lines", type=int, nargs="+", help="only faults on these lines")
    parser.add_argument("--sample", type=int, default=0, help="number of faults per module (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.chdir(ROOT)
    # One failing example is enough: do not shrink or store it.
    hypothesis.settings.register_profile(
        "mutants", database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("mutants")
    import torch

    torch.set_num_threads(1)
    for name in args.modules:
        run(name, args.lines, args.sample, args.seed)


if __name__ == "__main__":
    main()
