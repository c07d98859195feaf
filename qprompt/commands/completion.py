"""Print a script that completes qprompt's commands, options and names in your shell.

Examples:
  qprompt completion bash > ~/.local/share/bash-completion/completions/qprompt
  qprompt completion zsh > ~/.zfunc/_qprompt        (a folder in $fpath)
"""

import argparse
import pkgutil
from importlib import import_module
from typing import Any

from qprompt.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")
_PATHS = ("FILE", "DIR", "FOLDER", "IMAGE", "RUN", "PICTURES", "SPEC")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt completion``."""
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs shtab, which is not installed: pip install shtab") from None
    print(shtab.complete(_parser(shtab.FILE), args.shell))


def _parser(path: Any) -> argparse.ArgumentParser:
    """Return a parser of all commands. Arguments that are paths complete as paths, trainers by their names."""
    import qprompt.commands
    from qprompt.runs.project import find_project, trainer_names

    parser = argparse.ArgumentParser(prog="qprompt")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    trainers = trainer_names(find_project())
    for module in pkgutil.iter_modules(qprompt.commands.__path__):
        command = import_module(f"qprompt.commands.{module.name}")
        summary = (command.__doc__ or "").partition("\n")[0]
        own = commands.add_parser(module.name.replace("_", "-"), help=summary)
        command.add_arguments(own)
        for action in own._actions:
            name = f"{action.metavar or action.dest}".upper()
            if action.dest == "trainer":
                action.choices = trainers
            elif any(word in name for word in _PATHS) and action.choices is None:
                action.complete = path  # type: ignore[attr-defined]
    return parser
