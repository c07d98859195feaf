"""The prompt file: sizes, round trips, and what a hostile one is answered with."""

import copy
import json
import random
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantized import NAMES, Learner, one, weights
from safetensors import safe_open
from torch import nn

import qprompt
from qprompt.errors import UserError
from qprompt.prompt_files import format as prompt_format
from qprompt.prompt_files import parsing
from qprompt.prompt_files.bits import pack_bits, unpack_bits
from qprompt.prompt_files.inspection import inspect
from qprompt.prompt_files.packing import load, pack, save
from qprompt.quantization.api import quantize_

ABOUT = {
    "method": "QCoOp",
    "backbone": "ViT-B/16",
    "backbone_sha256": "0" * 64,
    "words": "a photo of a",
    "class_position": "end",
}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(0, 100), st.integers(0, 2**31))
def test_bits_round_trip(bits, n, seed):
    indices = torch.randint(0, 2**bits, (n,), generator=torch.Generator().manual_seed(seed))
    packed = pack_bits(indices, bits)
    assert packed.dtype == torch.uint8 and len(packed) == parsing.packed_size(n, bits)
    assert torch.equal(unpack_bits(packed, bits, n).long(), indices)


def test_bit_order():
    assert pack_bits(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 1]), 1).tolist() == [1, 1]
    assert pack_bits(torch.tensor([0xA, 0xB, 0xC]), 4).tolist() == [0xBA, 0x0C]


def test_qcoop_takes_260_bytes_in_a_file_of_less_than_1_kb(tmp_path):
    learner, *_ = one(weights(4, 512), bits=1)
    model = nn.Module()
    model.prompt_learner = learner
    save(model, tmp_path / "p", **ABOUT)
    about = inspect(tmp_path / "p")
    assert about["payload_bytes"] == 260 and about["half_bytes"] == 0
    assert about["file_bytes"] == (tmp_path / "p").stat().st_size <= 1000
    assert {key: about[key] for key in ABOUT} == ABOUT
    with safe_open(tmp_path / "p", "pt") as file:
        assert sum(file.get_tensor(key).numpy().nbytes for key in file.keys()) == 260  # noqa: SIM118


def test_load_equals_what_the_module_computed_with(tmp_path):
    for bits in (1, 2, 3, 4, 5, 8, 16):
        module = Learner()
        quantize_(module, names=NAMES, bits=bits, granularity="row" if bits == 3 else "tensor")
        save(module, tmp_path / "p")
        stored = load(tmp_path / "p")
        assert set(stored) == {"ctx", "deep.0", "deep.1", "proj.weight", "proj.bias"}
        assert torch.equal(stored["ctx"], module.ctx)
        assert torch.equal(stored["deep.1"], module.deep[1])
        assert torch.equal(stored["proj.weight"], module.proj.weight)
        assert torch.equal(stored["proj.bias"], module.proj.bias.half().float())
        about = inspect(tmp_path / "p")
        assert about["half_bytes"] == 2 * 8 + (2 * (4 * 64 + 2 * 2 * 64 + 8 * 64) if bits == 16 else 0)
        if bits == 4:
            assert about["payload_bytes"] == (4 * 64 + 2 * 2 * 64 + 8 * 64) // 2 + 4 * 2 * 16


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays("float32", hnp.array_shapes(max_dims=4, max_side=7), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from(list(prompt_format.DTYPES.values())),
    st.sampled_from([1, 2, 3, 7, 8, 16]),
    st.sampled_from(["kmeans", "uniform", "normal", "lsq"]),
)
def test_any_tensor_round_trips(tmp_path_factory, array, dtype, bits, method):
    path = tmp_path_factory.mktemp("any") / "p"
    module, *_ = one(torch.from_numpy(array).to(dtype), bits=bits, method=method)
    save(module, path, note={"any": ["JSON", 1.5, None]})
    stored = load(path)["ctx"]
    assert stored.dtype == dtype and torch.equal(stored, module.ctx)
    assert inspect(path)["note"] == {"any": ["JSON", 1.5, None]}


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(UserError, match="no quantized tensors"):
        save(Learner(), tmp_path / "p")
    module, *_ = one(weights(2, 2), mode="ptq")
    with pytest.raises(UserError, match="qprompt.finish_"):
        save(module, tmp_path / "p")
    module, *_ = one(weights(2, 2))
    for note in (object(), float("nan")):
        with pytest.raises(UserError, match="must be JSON"):
            save(module, tmp_path / "p", note=note)
    assert not (tmp_path / "p").exists()


# --- hostile files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    module = Learner()
    quantize_(module, names=NAMES, bits=3)
    path = tmp_path_factory.mktemp("valid") / "p"
    save(module, path, **ABOUT)
    return path.read_bytes()


def parts(data):
    """(header without metadata, metadata, payload)."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header.pop("__metadata__")["qprompt"]), data[8 + length :]


def forged(header, about, payload):
    """A file with a right checksum."""
    about = {key: value for key, value in about.items() if key != "checksum"}
    about["checksum"] = parsing.checksum(about, header, payload)
    text = json.dumps({"__metadata__": {"qprompt": json.dumps(about)}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + payload


def refusal(tmp_path, data):
    path = tmp_path / "hostile"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value).startswith(f"{path} is not a valid prompt file: ")
    return str(error.value)


def test_forged_without_a_change_is_read(tmp_path, valid):
    (tmp_path / "p").write_bytes(forged(*parts(valid)))
    assert set(load(tmp_path / "p")) == {"ctx", "deep.0", "deep.1", "proj.weight", "proj.bias"}


def test_truncated_at_every_length(tmp_path, valid):
    for length in range(0, len(valid), 7):
        refusal(tmp_path, valid[:length])
    assert "truncated" in refusal(tmp_path, valid[:100])


def test_oversized(tmp_path, valid):
    assert "does not agree with its size" in refusal(tmp_path, valid + b"\0")
    header, about, payload = parts(valid)
    assert "does not agree with its size" in refusal(tmp_path, forged(header, about, payload + b"1234"))
    header["indices/deep.1"] = header["indices/deep.0"]  # two tensors over the same bytes
    assert "does not agree with its size" in refusal(tmp_path, forged(header, about, payload))


def test_any_changed_byte_is_noticed(tmp_path, valid):
    for at in range(0, len(valid), 11):
        refusal(tmp_path, valid[:at] + bytes([valid[at] ^ 1]) + valid[at + 1 :])


def test_newer_format(tmp_path, valid):
    header, about, payload = parts(valid)
    assert "update qprompt" in refusal(tmp_path, forged(header, about | {"format": 2}, payload))
    for odd in (None, 0, -1, "1", True, 1.0):
        refusal(tmp_path, forged(header, about | {"format": odd}, payload))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("shape", [4, 10**15], "bytes of"),
        ("shape", [2**70], "bytes of"),
        ("shape", [0], "groups for 0 entries"),
        ("shape", [-4, -64], "an invalid shape"),
        ("shape", [1] * 9, "an invalid shape"),
        ("shape", [1] * 7 + [2], "bytes of"),
        ("shape", "4x64", "an invalid shape"),
        ("bits", 4, "bytes of"),
        ("bits", 0, "0 bits"),
        ("bits", 9, "9 bits"),
        ("bits", 17, "17 bits"),
        ("bits", True, "True bits"),
        ("bits", 16, "16 bits and 1 groups"),
        ("groups", 2**40, "groups for"),
        ("groups", 0, "groups for"),
        ("groups", 3, "groups for"),
        ("groups", None, "groups for"),
        ("dtype", "int8", "int8"),
        ("dtype", ["float32"], "float32"),
    ],
)
def test_contradictions(tmp_path, valid, field, value, words):
    header, about, payload = parts(valid)
    about["tensors"]["ctx"][field] = value
    assert words in refusal(tmp_path, forged(header, about, payload))


def test_levels_that_are_not_finite_and_bits_behind_the_last_index(tmp_path):
    module, *_ = one(weights(3), bits=3)
    save(module, tmp_path / "p")
    header, about, payload = parts((tmp_path / "p").read_bytes())
    for key, value, words in (("levels/ctx", b"\x00\x7c", "not finite"), ("indices/ctx", b"\xff\xff", "last index")):
        start = header[key]["data_offsets"][0]
        assert words in refusal(tmp_path, forged(header, about, payload[:start] + value + payload[start + 2 :]))
    last = header["indices/ctx"]["data_offsets"][1] - 1  # 9 bits in 2 bytes
    for spare in range(1, 8):
        changed = payload[:last] + bytes([payload[last] | 1 << spare]) + payload[last + 1 :]
        assert "last index" in refusal(tmp_path, forged(header, about, changed))


def test_other_files(tmp_path, valid):
    header, about, payload = parts(valid)
    refusal(tmp_path, b"PK\x03\x04" + b"\0" * 100)
    refusal(tmp_path, b'{"json": 1}')
    refusal(tmp_path, struct.pack("<Q", 2**63) + b"{}")
    assert "no qprompt metadata" in refusal(tmp_path, struct.pack("<Q", 2) + b"{}")
    bomb = ("[" * 100_000).encode()
    refusal(tmp_path, struct.pack("<Q", len(bomb)) + bomb)
    refusal(tmp_path, forged(header | {"more": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}, about, payload))
    refusal(tmp_path, forged(header, about | {"tensors": {}}, payload))
    refusal(tmp_path, forged(header, about | {"words": 5}, payload))
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=str(path)):
            load(path)


def mutations(valid, seed):
    """Endless variants of a valid file: bytes changed, cut, doubled, and forged with a right checksum."""
    rng = random.Random(seed)
    odd = [0, 1, -1, 2**31, 2**63, 1e308, None, True, "", "ctx", [], {}, [4, 64], [2**40, 2**40]]

    def change(node):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = rng.choice(list(keys))
        if isinstance(node[key], dict | list) and rng.random() < 0.7:
            change(node[key])
        elif isinstance(node, dict) and rng.random() < 0.2:
            del node[key]
        else:
            node[key] = copy.deepcopy(rng.choice(odd))

    while True:
        kind = rng.random()
        if kind < 0.5:
            header, about, payload = parts(valid)
            for _ in range(rng.randint(1, 3)):
                change(rng.choice([header, about]))
            yield forged(header, about, payload)
            continue
        data = bytearray(valid)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            if kind < 0.7:
                data[at] = rng.randrange(256)
            elif kind < 0.85:
                del data[at : at + rng.randint(1, 40)]
            else:
                data[at:at] = data[: rng.randint(1, 40)]
            if not data:
                break
        yield bytes(data)


def read_all(valid, seed, number):
    """Every variant is refused by a UserError, or read as tensors no larger than it can hold."""
    read = 0
    for _, data in zip(range(number), mutations(valid, seed), strict=False):
        try:
            file = prompt_format.as_tensors(parsing.parse(data))
        except parsing.Invalid:
            continue
        read += 1
        assert sum(t.tensor().numel() for t in file.tensors.values()) <= 8 * len(data)
    return read


def test_mutated_files(valid):
    assert read_all(valid, seed=0, number=3000) < 1000


@pytest.mark.slow
def test_a_hundred_thousand_mutated_files(valid):
    read_all(valid, seed=1, number=100_000)


OTHER_FILES = {
    "a pointer of Git LFS: type git lfs pull": b"version https://git-lfs.github.com/spec/v1\n",
    "a web page: download it again": b"<!DOCTYPE html><html></html>",
    "an image: the prompt file comes before the images": b"\xff\xd8\xff\xe0" + bytes(50),
    "a zip archive: unpack it": b"PK\3\4" + bytes(50),
}


@pytest.mark.parametrize("words", [*OTHER_FILES, "a checkpoint: qprompt pack makes a prompt file of it"])
def test_other_files_are_named_with_what_to_do(tmp_path, words):
    if words in OTHER_FILES:
        (tmp_path / "a.qprompt").write_bytes(OTHER_FILES[words])
    else:
        torch.save({"ctx": torch.zeros(4, 8)}, tmp_path / "a.qprompt")
    with pytest.raises(UserError, match=f"a.qprompt is not a valid prompt file: it is {words}"):
        inspect(tmp_path / "a.qprompt")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(data):
    with pytest.raises(parsing.Invalid):
        parsing.parse(data)


def test_reading_does_not_allocate_what_is_claimed(tmp_path, valid, monkeypatch):
    header, about, payload = parts(valid)
    about["tensors"]["ctx"] |= {"shape": [2**20, 2**20]}
    monkeypatch.setattr(np, "unpackbits", lambda *args, **kwargs: pytest.fail("allocates"))
    monkeypatch.setattr(torch, "zeros", lambda *args, **kwargs: pytest.fail("allocates"))
    refusal(tmp_path, forged(header, about, payload))


def test_public_functions():
    assert (qprompt.save, qprompt.load, qprompt.inspect) == (save, load, inspect)


# --- the writer applies the reader's rules, before anything is written


def stored(**changes):
    values = torch.zeros(2, 4, dtype=torch.float16)
    return prompt_format.StoredTensor(**{"shape": (2, 4), "dtype": "float32", "bits": 16, "values": values, **changes})


@pytest.mark.parametrize(
    "tensors, about, words",
    [
        ({"a": stored(values=torch.tensor([torch.nan] * 8))}, {}, "not finite"),
        ({"a": stored(values=torch.tensor([torch.inf] * 8))}, {}, "not finite"),
        ({"a": stored(values=torch.full((8,), 1e5))}, {}, "not finite"),
        ({"a": stored(bits=32, values=torch.full((8,), torch.nan))}, {}, "not finite"),
        (
            {"a": stored(bits=1, values=None, indices=torch.zeros(8), levels=torch.tensor([[0.0, torch.inf]]).half())},
            {},
            "not finite",
        ),
        ({"a": stored(shape=(1,) * 8 + (8,))}, {}, "invalid shape"),
        ({}, {}, "names no tensors"),
        ({"a": stored()}, {"format": 7}, "cannot be named format"),
        ({"a": stored()}, {"tensors": {}}, "cannot be named tensors"),
        ({"a": stored()}, {"checksum": ""}, "cannot be named checksum"),
        ({"a": stored()}, {"words": 3}, "is not text"),
    ],
    ids=str,
)
def test_nothing_is_written_that_would_be_refused(tmp_path, tensors, about, words):
    with pytest.raises(UserError, match=words):
        prompt_format.write_prompt_file(tmp_path / "p", tensors, about)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e6])
def test_pack_refuses_values_that_half_precision_cannot_hold(tmp_path, value):
    state = {"ctx": torch.full((2, 4), 0.1)}
    state["ctx"][1, 2] = value
    with pytest.raises(UserError):
        pack(state, tmp_path / "p")
    assert not list(tmp_path.iterdir())


# --- load_ -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """A prompt file, and the values in it."""
    module = Learner()
    quantize_(module, names=NAMES, bits=2)
    save(module, tmp_path / "a.qprompt")
    return tmp_path / "a.qprompt", load(tmp_path / "a.qprompt")


@pytest.mark.parametrize(
    "fields", [None, {"bits": 2}, {"bits": 4}, {"bits": 16}, {"bits": 2, "method": "uniform"}], ids=str
)
def test_load_puts_the_stored_values_into_a_module(stored, fields):
    path, values = stored
    module = Learner()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    if fields:
        quantize_(module, names=NAMES, **fields)
    before = copy.deepcopy(module.state_dict())
    if fields and fields.get("method") == "uniform":  # its levels are others
        with pytest.raises(UserError, match=r"type qprompt.dequantize_\(module\) first"):
            qprompt.load_(module, path)
        assert all(
            torch.equal(value, before[key])
            for key, value in module.state_dict().items()
            if isinstance(value, torch.Tensor)
        )
        qprompt.dequantize_(module)
    assert qprompt.load_(module, path) == list(values)
    now = qprompt.plain_state_dict(module)
    assert all(torch.equal(now[name], value) for name, value in values.items())


def test_load_accepts_names_with_and_without_the_learner(tmp_path):
    model = nn.Module()
    model.prompt_learner = Learner()
    quantize_(model, names="prompt_learner.ctx")
    model.requires_grad_(False)
    save(model, tmp_path / "a.qprompt")
    learner = Learner()
    assert qprompt.load_(learner, tmp_path / "a.qprompt") == ["ctx"]
    assert torch.equal(learner.ctx, model.prompt_learner.ctx)


def test_load_refuses_another_module(stored):
    path, _ = stored
    other = Learner()
    other.ctx = nn.Parameter(torch.ones(2, 3))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(UserError, match=r"ctx has shape .* in the module. Nothing was loaded"):
        qprompt.load_(other, path)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    with pytest.raises(UserError, match="which the module lacks; it has: weight, bias"):
        qprompt.load_(nn.Linear(2, 2), path)
