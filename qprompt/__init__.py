"""QPrompt: quantized prompts for CLIP (QCoOp and QMaPLe, arXiv 2407.10704).

The names below load on first use, so that ``import qprompt`` stays light: it needs neither Dassl, CLIP nor yacs.
"""

from importlib import import_module

__version__ = "0.1.0"

# public name -> the module that holds it
_EXPORTS = {
    "QuantConfig": "quant_config",
    "quantize_": "fake_quant",
    "refresh_": "fake_quant",
    "finish_": "fake_quant",
    "dequantize_": "fake_quant",
    "plain_state_dict": "states",
    "load_state_dict_": "states",
    "add_noise_": "noise",
    "Recorder": "recorder",
    "kmeans": "kmeans",
    "save": "packing",
    "load": "packing",
    "pack": "packing",
    "unpack": "packing",
    "inspect": "packing",
    "UserError": "errors",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'qprompt' has no attribute {name!r}")
    return getattr(import_module(f"qprompt.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
