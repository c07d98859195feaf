"""The directions of imports between the packages (the contracts in pyproject.toml), and limits on their number."""

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.application.use_cases import lint_imports

import qprompt

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = str(ROOT / "pyproject.toml")
PACKAGE = Path(qprompt.__file__).parent
ENTRIES, FLOORS = 20, 9  # at most
PACKAGES = ("qprompt", "dassl", "trainers", "datasets")
pytestmark = pytest.mark.bundled_only  # the bundled engine is analyzed under its name, dassl


@pytest.fixture(scope="module")
def imports():
    """(module, module that it imports), wherever in the file; not what is found by name at run time."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = [(module, other) for module in graph.modules for other in graph.find_modules_directly_imported_by(module)]
    tree = ast.parse((ROOT / "train.py").read_text(encoding="utf-8"))  # grimp takes packages only
    used = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [*found, *(("train", module) for module in used if module.partition(".")[0] in PACKAGES)]


def test_contracts(capsys):
    # not importlinter.cli, which disables the loggers of all other tests
    assert lint_imports(CONTRACTS, cache_dir=None, no_logo=True), capsys.readouterr().out


def test_the_docs_state_the_contract():
    page = (ROOT / "docs/internals/architecture.md").read_text(encoding="utf-8")
    levels = [re.findall(r"`(\w+)`", names) for names in re.findall(r"^\| \d+ \| (`.*`) \|$", page, re.MULTILINE)]
    layers = next(c["layers"] for c in read_configuration(CONTRACTS)["contracts_options"] if c["id"] == "layers")
    assert levels == [layer.split(" | ") for layer in reversed(layers) if layer != "__main__"]


def test_no_circle_between_modules(imports):
    TopologicalSorter(as_graph(imports)).prepare()  # raises CycleError


def test_number_of_entries_of_the_package():
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(entries - {"__init__"}) <= ENTRIES


def test_number_of_floors(imports):
    """The longest chain of imports between the entries of qprompt, trainers, datasets and train.py."""
    graph = as_graph((entry(module), entry(other)) for module, other in imports)
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        chains[name] = [name, *max((chains[other] for other in graph[name]), key=len, default=[])]
    longest = max(chains.values(), key=len)
    assert len(longest) <= FLOORS, " -> ".join(longest)


def as_graph(pairs):
    graph = defaultdict(set)
    for one, other in pairs:
        if one != other:
            graph[one].add(other)
    return graph


def entry(module):
    """The name directly in qprompt/ that a module belongs to, or its top-level package."""
    package, _, rest = module.partition(".")
    return "engine" if package == "dassl" else rest.partition(".")[0] if package == "qprompt" and rest else package
