"""What is in a prompt file. PyTorch is not imported."""

import os
from typing import Any

from qprompt.prompt_files.parsing import WHOLE, parse_file, payload_bytes


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a prompt file, a row per tensor, and sizes in bytes.

    ``payload_bytes`` counts indices and levels (arXiv 2407.10704, section 3.4), ``half_bytes`` and ``full_bytes`` the
    tensors that are stored in half and in full precision.
    """
    file = parse_file(path)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(t.shape),
            "dtype": t.dtype,
            "bits": t.bits,
            "groups": t.groups,
            "payload_bytes": payload_bytes(t.shape, t.bits, t.groups),
        }
        for name, t in file.tensors.items()
    ]
    whole = {
        f"{entry}_bytes": sum(row["payload_bytes"] for row in rows if row["bits"] == bits)
        for bits, entry in WHOLE.items()
    }
    quantized = sum(row["payload_bytes"] for row in rows if row["bits"] not in WHOLE)
    return {**file.about, "file_bytes": file.file_bytes, "payload_bytes": quantized, **whole, "tensors": rows}
