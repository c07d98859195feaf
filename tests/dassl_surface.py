"""The public names of Dassl's modules, read from its source: which the bundled engine has, and which not.

python -m tests.dassl_surface path/to/Dassl.pytorch    (writes tests/golden/dassl_surface.json)
"""

import ast
import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_name("golden") / "dassl_surface.json"
# Domain adaptation, domain generalization and semi-supervised learning, which the engine refuses by name.
LEFT_OUT = ("dassl.engine.da", "dassl.engine.dg", "dassl.engine.ssl", "dassl.modeling")
LEFT_OUT += ("dassl.data.datasets.da", "dassl.data.datasets.dg", "dassl.data.datasets.ssl")
_OF_DASSL = ("dassl", "torchvision")  # trainers import torchvision's transforms from Dassl


def surface(package: Path) -> dict[str, dict[str, object]]:
    """Return module -> name -> the arguments of a function, {method: arguments} of a class, or None for other names.

    Modules that a module imports are not part of its surface; what it imports from Dassl itself is.
    """
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not module.startswith(LEFT_OUT):
            found[module] = dict(_names(ast.parse(file.read_text(encoding="utf-8"))))
    return found


def _names(tree: ast.Module):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, _arguments(node)
        elif isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            yield node.name, {m.name: _arguments(m) for m in methods if m.name == "__init__" or m.name[0] != "_"}
        elif isinstance(node, ast.Assign):
            yield from ((target.id, None) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").startswith(("dassl", "torchvision"))
        ):
            yield from ((alias.asname or alias.name, None) for alias in node.names if alias.name != "*")


def _arguments(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(surface(Path(sys.argv[1]) / "dassl"), indent=1) + "\n", encoding="utf-8")
