"""Damage inside a format: below a checksum, in a member of an archive, in a JSON value."""

import functools
import hashlib
import io
import json
import random
import zipfile

from fuzzing.damage import damage, edit_json
from qprompt.prompt_files import parsing


def in_json(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage the text, or (half of the time) put other values into it."""
    if random_.random() < 0.5:
        return damage(data, others, random_)
    tree = edit_json(json.loads(data), random_)
    return json.dumps(tree, ensure_ascii=random_.random() < 0.9).encode("utf-8", "surrogatepass")


def in_json_lines(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage one line as `in_json` does."""
    lines = data.splitlines(keepends=True)
    at = random_.randrange(len(lines))
    return b"".join([*lines[:at], in_json(lines[at].strip(), others, random_), b"\n", *lines[at + 1 :]])


def in_list(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage an image list: JSON or CSV."""
    return (in_json if data.startswith(b"[") else damage)(data, others, random_)


def in_prompt_file(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage a prompt file, most of the time with a checksum that is right again."""
    if random_.random() < 0.3:
        return damage(data, others, random_)
    start = 8 + int.from_bytes(data[:8], "little")
    outer, body = json.loads(data[8:start]), data[start:]
    about = json.loads(outer.pop("__metadata__")["qprompt"])
    about.pop("checksum")
    which = random_.randrange(3)
    if which == 0:
        about = edit_json(about, random_)
    elif which == 1:
        outer = edit_json(outer, random_)
    else:
        body = damage(body, others, random_)
    if isinstance(about, dict) and isinstance(outer, dict):
        about["checksum"] = parsing.checksum(about, outer, body)
        outer = {**outer, "__metadata__": {"qprompt": json.dumps(about)}}
    text = json.dumps(outer).encode()
    return len(text).to_bytes(8, "little") + text + body


@functools.lru_cache(maxsize=64)
def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def in_zip(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage a zip archive, or (most of the time) the content of one of its members."""
    if random_.random() < 0.3:
        return damage(data, others, random_)
    members = list(_members(data))
    at = max(random_.randrange(len(members)) for _ in range(2)) if random_.random() < 0.3 else 0
    name, content = members[at]
    if random_.random() < 0.1:
        name = random_.choice(["../x", "/x", "a/../../x", name + "/", "", "\0", "a\\b", name.upper()])
    members[at] = (name, damage(content, [m for _, m in members], random_))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random_.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def in_tar(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage a tar archive, most of the time one header, with a checksum that is right again."""
    if random_.random() < 0.3 or len(data) < 512:  # a compressed archive is shorter than a header
        return damage(data, others, random_)
    block = bytearray(data)
    header = 512 * random_.randrange(len(data) // 512)
    field, size = random_.choice([(0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)])
    text = random_.choice(
        [b"../x", b"/x", b"a/../../x", b"77777777777\0", b"\x80" + b"\xff" * 11, b"", b"1", b"2", b"L", b"x"]
    )
    block[header + field : header + field + size] = text[:size].ljust(size, b"\0")
    block[header + 148 : header + 156] = b" " * 8
    block[header + 148 : header + 156] = b"%06o\0 " % sum(block[header : header + 512])
    return bytes(block)


def in_features(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage a file of cached features, with a digest that is right again."""
    data = in_zip(data[32:], [], random_)
    return hashlib.sha256(data).digest() + data
