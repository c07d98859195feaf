"""The trainers X and QX of every method in ``qprompt/prompts``."""

from qprompt.prompts import methods
from qprompt.training.quantized import QuantizedPrompts


def register_methods() -> None:
    """Register the trainers X and QX of every method that has none yet. The engine must be active."""
    from dassl.engine import TRAINER_REGISTRY

    from qprompt.training.prompt_trainer import PromptTrainer

    known = set(TRAINER_REGISTRY.registered_names())
    for method in methods():
        if method.name not in known:
            trainer = type(method.name, (PromptTrainer,), {"method": method, "__doc__": method.summary})
            TRAINER_REGISTRY.register(trainer)
        if method.trainer not in known:
            base = TRAINER_REGISTRY.get(method.name)
            TRAINER_REGISTRY.register(type(method.trainer, (QuantizedPrompts, base), {}))
