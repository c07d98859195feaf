"""``qprompt COMMAND ...``: one module of `qprompt.commands` per command, imported only when it is called.

A command module has a docstring (its first line is the help), ``add_arguments(parser)`` and
``run(args) -> int | None``.
"""

import argparse
import ast
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

from qprompt import __version__
from qprompt.errors import UserError, did_you_mean
from qprompt.io.device_errors import device_errors_named
from qprompt.io.files import check_current_folder, disk_errors_named
from qprompt.io.logs import accept_any_name, discard_output, show_logs

COMMANDS = Path(__file__).parent / "commands"
LESS_MEMORY = "type a smaller --batch (qprompt predict), or --device cpu"
LAUNCHER = "qprompt.dropin.launcher"


def _first_line(module_file: Path) -> str:
    """Return the first line of a module's docstring without importing it (commands may import torch)."""
    docstring = ast.get_docstring(ast.parse(module_file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _command_names() -> dict[str, str]:
    """Return the command as typed (``check-data``) -> its module (``check_data``)."""
    return {m.name.replace("_", "-"): m.name for m in pkgutil.iter_modules([str(COMMANDS)])}


def _overview(names: dict[str, str]) -> str:
    width = max(map(len, names), default=0)
    lines = [f"  {name:<{width}}  {_first_line(COMMANDS / f'{module}.py')}" for name, module in names.items()]
    return "\n".join(
        [
            "usage: qprompt COMMAND [ARGUMENTS]",
            "       qprompt COMMAND --help",
            "       python -m qprompt train.py --trainer QCoOp ...   (inside a CoOp or MaPLe checkout)",
            "",
            "commands:",
            *lines,
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code (2 for a mistake of the user)."""
    argv = sys.argv[1:] if argv is None else argv
    show_logs()
    accept_any_name()
    names = _command_names()
    try:
        if not argv or argv[0] in ("-h", "--help", "help", "--version"):
            with disk_errors_named():
                print(f"qprompt {__version__}" if argv[:1] == ["--version"] else _overview(names), flush=True)
            return 0 if argv else 2
        check_current_folder()
        if argv[0].endswith(".py") or argv[0].startswith("--"):
            return import_module(LAUNCHER).launch(argv) or 0
        if argv[0] not in names:
            raise UserError(
                f"no command {argv[0]!r}.{did_you_mean(argv[0], names)} 'qprompt --help' lists the commands."
            )
        module = import_module(f"qprompt.commands.{names[argv[0]]}")
        parser = argparse.ArgumentParser(
            prog=f"qprompt {argv[0]}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        with disk_errors_named(), device_errors_named(lambda: LESS_MEMORY):
            code = module.run(parser.parse_args(argv[1:])) or 0
            if sys.stdout is not None:  # closed, as with >&-
                sys.stdout.flush()
            return code
    except BrokenPipeError:  # as with | head
        discard_output()
        return 0
    except UserError as error:
        print(f"qprompt: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
