"""``QX`` for every trainer X that a third-party checkout registers."""

from typing import Any

from qprompt.dropin import config_keys, ending, plain_runs
from qprompt.errors import UserError


def offer_quantized(registry: Any) -> None:
    """Make a Dassl trainer registry offer ``QX`` for every registered X. A registered QX is used as it is."""
    names, get, built = registry.registered_names, registry.get, {}

    def base(name: str) -> str | None:
        known = names()
        return name[1:] if name.startswith("Q") and name not in known and name[1:] in known else None

    def with_quantized() -> list[str]:
        known = names()
        return [*known, *(f"Q{name}" for name in known if base(f"Q{name}"))]

    def get_or_build(name: str) -> Any:
        if base(name) is None:
            return get(name)
        if name not in built:
            built[name] = quantized_class(get(base(name)))
        return built[name]

    registry.registered_names, registry.get = with_quantized, get_or_build


def quantized_class(trainer: type) -> type:
    """Derive ``QX`` from the trainer class X.

    X still reads ``TRAINER.NAME`` as X, so code that looks up its config node by name continues to work.

    Raises:
        UserError: X is not a Dassl trainer.
    """
    from qprompt.training.quantized import QuantizedPrompts

    name = f"Q{trainer.__name__}"
    if not (isinstance(trainer, type) and hasattr(trainer, "build_model") and hasattr(trainer, "forward_backward")):
        raise UserError(
            f"{trainer.__name__} is not a Dassl trainer with build_model and forward_backward: there is no {name}."
        )

    def __init__(self, cfg):
        plain_runs.made.add(name)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.TRAINER.NAME = trainer.__name__
        cfg.freeze()
        super(derived, self).__init__(cfg)  # type: ignore[arg-type]

    def calling(method: str) -> Any:
        def call(self, *args, **options):
            return getattr(super(derived, self), method)(*args, **options)

        return ending.remembered(call)

    calls = {method: calling(method) for method in ("train", "test", "load_model", "save_model", "forward_backward")}
    members = {
        **calls,
        "bits_are_given": property(lambda self: "BITS" in config_keys.given),
        "__init__": __init__,
        "__module__": trainer.__module__,
        "__doc__": f"{trainer.__name__}, quantized.",
    }
    derived: type = type(name, (QuantizedPrompts, trainer), members)
    return derived
