"""Where trainers/, datasets/, configs/ and train.py are: in a checkout, or the copy in the installed package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import qprompt

PACKAGES = ("datasets", "trainers")
# A file that only this project has: a CoOp checkout has trainers/ and datasets/ too.
_MARK = "trainers/qcoop.py"
_PACKAGE = Path(qprompt.__file__).resolve().parent
_PACKAGED = _PACKAGE / "project"  # setup.py writes it into wheels


def find_project() -> Path:
    """Return the folder with trainers/, datasets/, configs/ and train.py.

    It is the working directory if that is a checkout, else the checkout that contains the package, else the copy in the
    installed package.
    """
    checkouts = (Path.cwd(), _PACKAGE.parent)
    return next((folder for folder in checkouts if (folder / _MARK).is_file()), _PACKAGED)


def find_file(path: str | Path) -> Path:
    """Return a path of the project (``configs/datasets/dtd.yaml``): as it is, or in `find_project`.

    The working directory wins: a path below a folder that exists there is returned unchanged.
    """
    given = Path(path)
    if not given.parts or Path(given.parts[0]).exists():
        return given
    inside = find_project() / given
    return inside if inside.exists() else given


def trainer_names(project: Path) -> list[str]:
    """Return the names of all trainers without importing them, which would take seconds for PyTorch."""
    methods = [
        str(ast.literal_eval(keyword.value))
        for file in (_PACKAGE / "prompts").glob("*.py")
        for node in ast.walk(_parse(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Method"
        for keyword in node.keywords
        if keyword.arg == "name"
    ]
    both = {name for method in methods for name in (method, f"Q{method}")}
    return sorted(both.union(_registered(project / "trainers")))


def dataset_names(project: Path) -> list[str]:
    """Return the names of all data sets without importing them."""
    return sorted(_registered(project / "datasets"))


def _registered(folder: Path) -> Iterator[str]:
    """Yield the classes that the modules in a folder register."""
    for file in folder.glob("*.py"):
        for node in _parse(file).body:
            if isinstance(node, ast.ClassDef) and any("_REGISTRY" in ast.unparse(d) for d in node.decorator_list):
                yield node.name


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))
