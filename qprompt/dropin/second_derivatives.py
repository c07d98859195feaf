"""Trainers that differentiate twice: fused attention has no second derivative, plain operations have.

Attention by plain operations rounds otherwise, so it is used only for a trainer whose code takes such derivatives: one
that calls something with ``create_graph``, in what the trainer refers to. What is not recognized ends in an error that
names ``--math-attention``.
"""

import ast
import os
import sys
from collections import defaultdict
from collections.abc import Iterator

_POSITIONS = {"grad": 4, "backward": 2}  # of create_graph among positional arguments


def use_math_attention() -> None:
    """Compute attention by operations that can be differentiated twice; the fused kernels cannot."""
    import torch

    for kernel in ("flash", "mem_efficient", "cudnn"):
        enable = getattr(torch.backends.cuda, f"enable_{kernel}_sdp", None)
        if enable is not None:
            enable(False)


def differentiates_twice(trainer: type) -> bool:
    """Return whether a trainer refers to code of its checkout that differentiates with ``create_graph``.

    Followed are the names of functions and classes, from the trainer and its bases on, through the modules of the
    checkout that are imported.
    """
    folder = os.path.dirname(os.path.abspath(sys.argv[0]))
    texts = list(_texts(folder))
    if not any("create_graph" in text or "autograd" in text for text in texts):
        return False
    definitions = _definitions(texts)
    names = [cls.__name__ for cls in trainer.__mro__ if not cls.__module__.startswith(("dassl", "qprompt", "builtins"))]
    followed: set[str] = set()
    while names:
        name = names.pop()
        if name in followed:
            continue
        followed.add(name)
        for definition in definitions.get(name, ()):
            for node in ast.walk(definition):
                if isinstance(node, ast.Call) and _creates_graph(node):
                    return True
                names += [getattr(node, "id", ""), getattr(node, "attr", "")]
    return False


def _texts(folder: str) -> Iterator[str]:
    """Yield the source of the script and of the imported modules below `folder`."""
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    files.add(os.path.abspath(sys.argv[0]))
    for file in sorted(files):
        if file.startswith(os.path.join(folder, "")) and file.endswith(".py"):
            try:
                with open(file, encoding="utf-8", errors="replace") as source:
                    yield source.read()
            except OSError:
                continue


def _definitions(texts: list[str]) -> dict[str, list[ast.AST]]:
    """Return name -> what functions, classes and assignments of that name contain, at any level."""
    found: dict[str, list[ast.AST]] = defaultdict(list)
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found[node.name].append(node)
        for node in tree.body:
            for target in node.targets if isinstance(node, ast.Assign) else ():
                found[getattr(target, "id", "")].append(node)
    return found


def _creates_graph(call: ast.Call) -> bool:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "create_graph"]
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    position = _POSITIONS.get(name)
    if position is not None and len(call.args) > position:
        given.append(call.args[position])
    return any(not (isinstance(value, ast.Constant) and value.value in (False, None)) for value in given)
