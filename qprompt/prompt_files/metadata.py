"""The metadata of a prompt file that programs read (docs/prompt_file.md); any other is stored as it is."""

import math
from typing import Any

from qprompt.data.preprocessing import Preprocessing

TEXTS = ("qprompt", "method", "backbone", "backbone_sha256", "words", "class_position")
OBJECTS = ("run", "metrics")


def check_metadata(about: dict[str, Any]) -> None:
    """Raise ValueError, which says what is wrong, unless all known entries have the type that programs expect."""
    if not all(isinstance(about.get(key, ""), str) for key in TEXTS):
        raise ValueError(f"one of its {', '.join(TEXTS)} is not text")
    if not all(isinstance(about.get(key, {}), dict) for key in OBJECTS):
        raise ValueError(f"one of its {', '.join(OBJECTS)} is not an object")
    names = about.get("classnames", ["any"])
    if not isinstance(names, list) or not names or not all(map(_is_text, names)):
        raise ValueError("its classnames are not a list of names")
    if "preprocessing" in about:
        try:
            Preprocessing.from_json(about["preprocessing"])
        except ValueError as error:
            raise ValueError(f"its preprocessing is not valid: {error}") from None
    if not _is_number(about.get("logit_scale", 1)) or not about.get("logit_scale", 1) > 0:
        raise ValueError("its logit_scale is not a number above 0")
    accuracy = about.get("metrics", {}).get("accuracy", 0)
    if not _is_number(accuracy) or not 0 <= accuracy <= 100:
        raise ValueError("its accuracy is not percent")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
