"""What the builders of backbones, heads and networks share."""

from .._left_out import LeftOut, advice
from .._left_out_names import MODULES
from ..utils import check_availability


def build(registry, kind, name, verbose, arguments):
    """Return what is registered as `name`, called with the arguments.

    Raises:
        UserError: nothing is registered with this name; if real Dassl has it, the message says so.
    """
    names = registry.registered_names()
    here = f"dassl.modeling.{kind}."
    if name not in names and any(name in known for module, known in MODULES.items() if module.startswith(here)):
        raise LeftOut(advice(f"{kind} {name}"))
    check_availability(name, names)
    if verbose:
        print(f"{kind.capitalize()}: {name}")
    return registry.get(name)(**arguments)
