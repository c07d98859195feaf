#!/usr/bin/env python3
"""Write docs/api.md from the docstrings: signature and docstring of what each module of the library offers.

    python scripts/make_api_docs.py            write it
    python scripts/make_api_docs.py --check    exit 1 if it is not what the docstrings say

It reads the source text and imports nothing, so the result is the same with every version of Python and PyTorch.
"""

import argparse
import ast
import re
import sys
from inspect import cleandoc
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "api.md"
# In the order in which a reader meets them. `qprompt.NAME` is a short name for what __init__.py lists.
MODULES = (
    "fake_quant",
    "quant_config",
    "fake_quantize",
    "kmeans",
    "quantizers",
    "noise",
    "states",
    "packing",
    "prompt_file",
    "stored_prompts",
    "recorder",
    "accounting",
    "trainer",
    "selection",
    "backbones/load",
    "prompted_clip/model",
    "prompted_clip/layout",
    "feature_cache",
    "errors",
    "files",
)
HEAD = """# API

Generated from the docstrings by `python scripts/make_api_docs.py`; a test holds it to them. Names marked
**qprompt.** are also there: `qprompt.quantize_` is `qprompt.quantization.api.quantize_`.
"""


def reference() -> str:
    """The whole page."""
    short = exported()
    sections = [HEAD, " · ".join(f"[{dotted(m)}](#{dotted(m).replace('.', '')})" for m in MODULES) + "\n"]
    sections += [section(module, short) for module in MODULES]
    return "\n".join(sections)


def exported() -> dict[str, str]:
    """The names that `qprompt` itself offers, each with its module."""
    for node in parse("__init__").body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_EXPORTS":
            return dict(ast.literal_eval(node.value))
    raise SystemExit("qprompt/__init__.py has no _EXPORTS")


def section(module: str, short: dict[str, str]) -> str:
    tree = parse(module)
    lines = [f"## {dotted(module)}\n", (ast.get_docstring(tree) or "").rstrip() + "\n"]
    public = listed(tree)
    for node in tree.body:
        if documented(node) and (not public or node.name in public):
            prefix = "**qprompt.** " if short.get(node.name) == module else ""
            lines += [f"### {prefix}`{node.name}`\n", *entry(node)]
    return "\n".join(lines)


def listed(tree: ast.Module) -> list[str]:
    """The module's __all__; empty where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def entry(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    lines = [f"```python\n{signature(node)}\n```\n", body(node) + "\n"]
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            if documented(method) and isinstance(method, ast.FunctionDef):
                lines.append(f"- `{call(method)}`: {' '.join(body(method).split())}")
        lines.append("")
    return lines


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.FunctionDef):
        return f"def {call(node)}"
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return f"class {node.name}{call(statement).removeprefix('__init__').removesuffix(' -> None')}"
    fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and not s.target.id.startswith("_")]
    return "\n    ".join([f"class {node.name}:", *map(ast.unparse, fields)]) if fields else f"class {node.name}"


def call(function: ast.FunctionDef) -> str:
    """Name, parameters without self, and what comes back."""
    parameters = function.args
    if parameters.args and parameters.args[0].arg in ("self", "cls"):
        parameters.args = parameters.args[1:]
    returned = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{function.name}({ast.unparse(parameters)}){returned}"


def documented(node: ast.AST) -> bool:
    """Whether it is a public function or class with a docstring."""
    return (
        isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is not None
    )


def body(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The docstring as Markdown: "name: what it is" lines become a list, and nothing is indented into a code block."""
    first, *others = cleandoc(ast.get_docstring(node) or "").splitlines()
    lines = [first]
    for line in others:
        if re.match(r"[`*]*\w[\w.`*/]*(, [\w`*]+)*: ", line.lstrip()):
            line = f"- {line.lstrip()}"
        elif line.startswith("    "):
            line = f"  {line.lstrip()}"
        lines.append(line)
    return "\n".join(lines)


def parse(module: str) -> ast.Module:
    return ast.parse((ROOT / "qprompt" / f"{module}.py").read_text(encoding="utf-8"))


def dotted(module: str) -> str:
    return f"qprompt.{module.replace('/', '.')}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if docs/api.md is out of date")
    args = parser.parse_args()
    page = reference()
    if not args.check:
        OUT.write_text(page, encoding="utf-8")
        print(f"Wrote {OUT.relative_to(ROOT)}: {page.count('### ')} entries of {len(MODULES)} modules")
        return 0
    if OUT.is_file() and OUT.read_text(encoding="utf-8") == page:
        return 0
    print("docs/api.md is not what the docstrings say: type python scripts/make_api_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
