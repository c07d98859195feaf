"""What a file is by its first bytes, and what to do about it, where it is not what was expected."""

import re
from collections.abc import Iterable

AGAIN, UNPACK = "download it again", "unpack it"
# First bytes -> what it is, what to do.
KINDS = (
    (rb"version https://git-lfs", "a pointer of Git LFS", "type git lfs pull"),
    (rb"\s*<(!doctype|html|\?xml|error)", "a web page", AGAIN),
    (rb"\s*[{\[]", "text", AGAIN),
    (rb"PK\x03\x04", "a zip archive", UNPACK),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "an archive", UNPACK),
    (rb"\0\x05\x16[\0\x07]", "a file that macOS keeps beside others, without content", "delete it"),
    (rb"\0+\Z", "zero bytes only", AGAIN),
)


def kind_of(data: bytes, kinds: Iterable[tuple[bytes, str, str]] = KINDS) -> str:
    """Return what a file is and what to do, as "a web page: download it again"; "" if its bytes do not say it."""
    head = data if not data.strip(b"\0") else data[:1000]
    for start, what, cure in kinds:
        if re.match(start, head, re.DOTALL | re.IGNORECASE):
            return f"{what}: {cure}"
    return ""
