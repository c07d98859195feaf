"""Random damage to bytes and to JSON values: flipped bits, wrong lengths and numbers, spliced pieces, other types."""

import copy
import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

INTEGERS = [
    *(0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1),
]
NUMBERS = [b"0", b"-1", b"1", b"7", b"65536", b"4294967296", b"99999999999999999999", b"1e400", b"NaN", b"1.5"]
TEXTS = ["", "x", "..", "/", "../x", "\0", "\ud800", "1", "(", "((((", "{[]: 1}"]
TEXTS += ["2001-99-99", "0x", "*", "%s", "a" * 5000]
VALUES = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *TEXTS,
    *([], {}, [[]], [None], {"": None}, {"a": {"b": 1}}, ["a", 1, None], [[[[[[[[1]]]]]]]], [0, 10**12], {"1": []}),
]
PIECES = [b"\0", b"\xff" * 8, b"'", b'"', b"\n", b"{", b"]", b",,", b"\\u0000", b"\xed\xa0\x80", b"&a *a"]
DEEP = [b"[" * 3000, b'{"a":' * 3000, b"(" * 3000, b"- " * 3000, b"[" * 3000 + b"]" * 3000]

Damage = Callable[[bytes, list[bytes], random.Random], bytes]


def damage(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Return `data` after one to three random edits; pieces may come from `others`."""
    for _ in range(random_.choice([1, 1, 1, 2, 3])):
        data = random_.choice(EDITS)(bytearray(data), others, random_)
    return data


def _flip(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    for _ in range(random_.choice([1, 1, 2, 8])):
        if data:
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    return bytes(data)


def _truncate(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    return bytes(data[: random_.randrange(len(data) + 1)])


def _overwrite_integer(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    size, order = random_.choice("BHIQ"), random_.choice("<>")
    number = random_.choice(INTEGERS) % 2 ** (8 * struct.calcsize(size))
    piece = struct.pack(order + size, number)
    at = random_.randrange(max(1, len(data)))
    data[at : at + len(piece)] = piece
    return bytes(data)


def _replace_number(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    found = list(re.finditer(rb"-?\d+", data))
    if found:
        match = random_.choice(found)
        data[match.start() : match.end()] = random_.choice(NUMBERS)
    return bytes(data)


def _splice(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    other = random_.choice([bytes(data), *others])
    low, high = sorted(random_.randrange(len(other) + 1) for _ in range(2))
    start = random_.randrange(len(data) + 1)
    end = min(len(data), start + random_.choice([0, high - low, random_.randrange(64)]))
    return bytes(data[:start]) + other[low : min(high, low + 4096)] + bytes(data[end:])


def _remove(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    start = random_.randrange(len(data) + 1)
    del data[start : start + random_.choice([1, 4, 16, 256])]
    return bytes(data)


def _insert_special(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    """Insert bytes with a meaning in some format, or overwrite with them."""
    piece = random_.choice(PIECES)
    at = random_.randrange(len(data) + 1)
    return bytes(data[:at]) + piece + bytes(data[at + random_.choice([0, len(piece)]) :])


def _nest(data: bytearray, others: list[bytes], random_: random.Random) -> bytes:
    at = random_.randrange(len(data) + 1)
    return bytes(data[:at]) + random_.choice(DEEP) + bytes(data[at:]) if random_.random() < 0.1 else bytes(data)


EDITS = [_flip, _flip, _truncate, _overwrite_integer, _replace_number, _splice, _remove, _insert_special, _nest]


def edit_json(tree: Any, random_: random.Random) -> Any:
    """Return a JSON value with one to three entries replaced by other types, removed, renamed or duplicated."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random_.choice([1, 1, 2, 3])):
        entries = [(None, None), *_entries(tree)]
        holder, key = random_.choice(entries)
        value = copy.deepcopy(random_.choice(VALUES))
        if holder is None:
            tree = value if random_.random() < 0.1 else tree
        elif random_.random() < 0.15:
            del holder[key]
        elif isinstance(holder, dict) and random_.random() < 0.15:
            holder[str(value)] = holder.pop(key)
        elif isinstance(holder, list) and random_.random() < 0.15:
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = value
    return tree


def _entries(tree: Any) -> list[tuple[Any, Any]]:
    """(dict or list, key or index) of every entry, at any depth."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            found.append((node, key))
            waiting.append(node[key])
    return found
