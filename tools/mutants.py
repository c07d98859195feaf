"""Mutants of a module: its source with one small fault each."""

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, description of the fault, source with the fault)."""
    tree = ast.parse(source)
    nodes = [node for node in ast.walk(tree) if not _is_docstring(node)]
    for index, node in enumerate(nodes):
        for name, change in _changes(node):
            other = copy.deepcopy(tree)
            target = [n for n in ast.walk(other) if not _is_docstring(n)][index]
            before = _shown(target)
            change(target)
            yield node.lineno, f"{name}: {before} -> {_shown(target)}", ast.unparse(other)  # type: ignore[attr-defined]


def _shown(node: ast.AST) -> str:
    return ast.unparse(node.test if isinstance(node, ast.If) else node)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Yield (name, function that changes such a node in place)."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "comparison", lambda n: n.ops.__setitem__(0, COMPARISONS[type(n.ops[0])]())
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_annotation(node):
        yield "operator", lambda n: setattr(n, "op", OPERATORS[type(n.op)]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "number", lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "boolean", lambda n: setattr(n, "value", not n.value)
    if isinstance(node, ast.BoolOp):
        yield "and/or", lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
    if isinstance(node, (ast.If, ast.IfExp)):
        yield "condition", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "removed call", lambda n: setattr(n, "value", ast.Constant(None))


def _is_annotation(node: ast.BinOp) -> bool:
    """Return whether the node is a type such as ``int | None``, which is never computed with."""
    return isinstance(node.op, ast.BitOr) and any(
        isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)
    )
