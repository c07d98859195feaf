"""The directions of imports are those of docs/internals/architecture.md."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qprompt"
PAGE = (ROOT / "docs/internals/architecture.md").read_text(encoding="utf-8")
LEVELS = {
    name: int(level)
    for level, names in re.findall(r"^\| (\d+) \| (`.*`) \|$", PAGE, re.MULTILINE)
    for name in re.findall(r"`(\w+)`", names)
}


def unit(path):
    """The package or module directly in qprompt/ that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """The units that a file imports, inside functions too."""
    package = path.relative_to(ROOT).parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("qprompt.")} - {"__version__", unit(path)}


FILES = [path for path in PACKAGE.rglob("*.py") if not unit(path).startswith("__")]


def test_every_package_has_a_level():
    assert set(LEVELS) == {unit(path) for path in FILES}


def test_packages_import_only_lower_levels():
    for path in FILES:
        wrong = [name for name in imported(path) if name not in LEVELS or LEVELS[name] >= LEVELS[unit(path)]]
        assert not wrong, f"{path} imports {wrong}"


def test_the_engine_needs_only_errors_and_io():
    needed = set().union(*map(imported, PACKAGE.glob("engine/**/*.py")))
    assert needed == {"errors", "io"}


def test_the_package_does_not_import_what_only_a_checkout_has():
    for path in FILES:
        code = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(?:from|import) (?:train|trainers|datasets)\b", code, re.MULTILINE), path
