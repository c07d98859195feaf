"""Mutation testing: put one small fault at a time into a module and see whether its tests notice.

  python tests/mutate_code.py [--modules qprompt.quantization.kmeans ...] [--lines 42 ...] [--sample 100] [--seed 0]

A fault is another comparison or operator, a number off by one, a condition turned round, or a call left out. Each runs
in a fork of a process that has imported all but the project: the module's test files, quick tests first, up to the
first failure or a limit of processor time (an endless loop is noticed too). Survivors are printed with their line.
"""

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

HERE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HERE), str(HERE / "tests")]

TESTS = {
    "qprompt.quantization.kmeans": ["test_kmeans.py", "test_quantizers.py"],
    "qprompt.quantization.codebook": ["test_kmeans.py", "test_coding.py", "test_fake_quant.py"],
    "qprompt.prompted_clip.products": ["test_products.py"],
    "qprompt.quantization.quantizers": ["test_quantizers.py", "test_fake_quant.py"],
    "qprompt.quantization.api": ["test_fake_quant_edges.py", "test_fake_quant_modules.py", "test_fake_quant.py"],
    "qprompt.quantization.fake_quantize": [
        "test_coding.py",
        "test_fake_quant_edges.py",
        "test_fake_quant.py",
        "test_fake_quant_modules.py",
    ],
    "qprompt.quantization.batching": [
        "test_coding.py",
        "test_fake_quant_edges.py",
        "test_fake_quant.py",
        "test_fake_quant_modules.py",
    ],
    "qprompt.prompt_files.bits": ["test_packing.py"],
    "qprompt.prompt_files.packing": ["test_packing.py", "test_checkpoints.py"],
    "qprompt.prompt_files.format": ["test_packing.py"],
}
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, what was done, the module with that one fault)."""
    tree = ast.parse(source)
    nodes = [node for node in ast.walk(tree) if not _is_text(node)]
    for index, node in enumerate(nodes):
        for what, change in _changes(node):
            other = copy.deepcopy(tree)
            target = [n for n in ast.walk(other) if not _is_text(n)][index]
            before = _shown(target)
            change(target)
            yield node.lineno, f"{what}: {before} -> {_shown(target)}", ast.unparse(other)  # type: ignore[attr-defined]


def _shown(node: ast.AST) -> str:
    return ast.unparse(node.test if isinstance(node, ast.If) else node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "comparison", lambda n: n.ops.__setitem__(0, COMPARISONS[type(n.ops[0])]())
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _annotation(node):
        yield "operator", lambda n: setattr(n, "op", OPERATORS[type(n.op)]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "number", lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "truth", lambda n: setattr(n, "value", not n.value)
    if isinstance(node, ast.BoolOp):
        yield "logic", lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
    if isinstance(node, (ast.If, ast.IfExp)):
        yield "condition", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call left out", lambda n: setattr(n, "value", ast.Constant(None))


def _annotation(node: ast.BinOp) -> bool:
    """``int | None``: types, which nothing runs."""
    return isinstance(node.op, ast.BitOr) and any(
        isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)
    )


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, name: str, source: str):
        self.name, self.source = name, source

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module):
        exec(compile(self.source, f"<mutated {self.name}>", "exec"), module.__dict__)


class _QuickFirst:
    """The plugin of pytest that orders the tests, and measures them."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.measured = seconds, dict[str, float]()

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report):
        self.measured[report.nodeid] = self.measured.get(report.nodeid, 0.0) + report.duration


def survives(name: str, source: str, cpu_seconds: int, seconds: dict[str, float], measure: str = "") -> bool:
    """Whether the tests pass with the module's source replaced; `measure`: a file for what a later run starts from."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        code = 1
        try:
            sys.meta_path.insert(0, _Mutated(name, source))
            files = [str(HERE / "tests" / file) for file in TESTS[name]]
            plugin = _QuickFirst(seconds)
            options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of hypothesis, which is imported already
            code = pytest.main([*options, *files], plugins=[plugin])
            if measure:
                modules = [m for m, loaded in sys.modules.items() if _others(loaded)]
                Path(measure).write_text(json.dumps([plugin.measured, modules]))
        finally:
            os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _others(module: Any) -> bool:
    """Whether a module is another project's, so that no fault of ours is in it."""
    file = getattr(module, "__file__", None)
    return bool(file) and not Path(file).is_relative_to(HERE)


def measured(name: str, source: str) -> tuple[int, dict[str, float]]:
    """A limit of processor seconds, and each test's seconds, from a run without a fault; imports what it imports."""
    with tempfile.NamedTemporaryFile() as file:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert survives(name, source, 600, {}, file.name), f"the tests of {name} fail without any fault"
        limit = 10 + 3 * int(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        seconds, modules = json.loads(Path(file.name).read_text())
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    return limit, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--lines", type=int, nargs="+", help="faults on these lines alone")
    parser.add_argument("--sample", type=int, default=0, help="at most so many faults in each module (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.chdir(HERE)
    # A failing example is enough: it need not be made small, nor kept.
    hypothesis.settings.register_profile(
        "mutants", database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("mutants")
    import torch

    torch.set_num_threads(1)
    for name in args.modules:
        path = HERE / Path(*name.split(".")).with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        faults = [fault for fault in mutants(source) if not args.lines or fault[0] in args.lines]
        if args.sample and len(faults) > args.sample:
            faults = sorted(random.Random(args.seed).sample(faults, args.sample))
        limit, seconds = measured(name, ast.unparse(ast.parse(source)))
        began, left = time.monotonic(), 0
        for line, what, mutated in faults:
            if survives(name, mutated, limit, seconds):
                left += 1
                print(f"{path.name}:{line}: {what}", flush=True)
        took = time.monotonic() - began
        print(f"{name}: {len(faults)} faults, {len(faults) - left} caught, {left} not ({took:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
