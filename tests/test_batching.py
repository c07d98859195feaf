"""All quantized tensors of a module are encoded in one pass, once a step."""

import pytest
import torch
from quantized import one, weights
from torch import nn

from qprompt.quantization.api import quantize_, quantized_parameters, refresh_
from qprompt.quantization.encoding import EncodingCache
from qprompt.quantization.fake_quantize import encode


class Many(nn.Module):
    """Tensors of two sizes, several of each, and a large one."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(3)
        shapes = [(4, 64)] * 3 + [(2, 32)] * 2 + [(90, 100)] * 2
        self.prompts = nn.ParameterList(nn.Parameter(torch.randn(s, generator=g) * 0.1 + 0.05) for s in shapes)

    def forward(self):
        return sum((p * p.roll(1)).sum() for p in self.prompts)


@pytest.mark.parametrize(
    "fields",
    [{"bits": 1}, {"bits": 4, "policy": "every"}, {"bits": 2, "gradient": "stats"}, {"bits": 2, "normalize": False}]
    + [{"bits": 3, "method": "lsq"}, {"bits": 2, "granularity": "row"}, {"bits": 2, "policy": "once"}],
    ids=str,
)
def test_one_pass_over_all_tensors_equals_one_pass_per_tensor(fields, monkeypatch):
    def trained():
        module = Many()
        quantize_(module, names="*", min_interval=3, kl_threshold=1e-4, **fields)
        optim = torch.optim.SGD(module.parameters(), lr=0.05)
        seen = []
        for _ in range(8):
            seen += refresh_(module)
            value = module()
            optim.zero_grad()
            value.backward()
            optim.step()
            seen += [value.detach(), *(fake.kl for fake, _ in quantized_parameters(module).values())]
        return seen + list(module.state_dict().values())

    together = trained()
    monkeypatch.setattr(EncodingCache, "put", lambda *_: None)  # each forward pass encodes its own tensor
    for a, b in zip(together, trained(), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_step_encodes_each_tensor_once(monkeypatch):
    passes = []

    def counted(normalized, *others):
        passes.append(len(normalized))
        return encode(normalized, *others)

    monkeypatch.setattr("qprompt.quantization.batching.encode", counted)
    monkeypatch.setattr("qprompt.quantization.fake_quantize.encode", counted)
    module = Many()
    quantize_(module, names="*", min_interval=1, bits=2)
    refresh_(module)
    passes.clear()
    for _ in range(2):  # the second step is gated
        refresh_(module)
        module().backward()
        assert passes == [3, 2, 1, 1]  # large tensors alone on a CPU
        passes.clear()
    assert len(quantized_parameters(module)) == 7


def test_a_cached_encoding_is_valid_for_that_weight_and_one_pass():
    module, fake, original = one(weights(4, 64), bits=2)
    for change in (
        lambda: original.add_(0.5),
        lambda: module.load_state_dict(module.state_dict() | {"parametrizations.ctx.original": original + 1}),
        lambda: setattr(original, "data", original.data * 2),
    ):
        refresh_(module)
        with torch.no_grad():
            change()
            expected = module.ctx.clone()
        assert torch.equal(module.ctx, expected)
    refresh_(module)
    assert torch.equal(module.ctx, module.ctx)
    original.data.mul_(3)  # not counted by torch: seen by a second pass
    assert torch.equal(module.ctx.detach(), fake.encode(original).values.view(4, 64))
    refresh_(module)
    original.data.mul_(3)
    refresh_(module)  # encodes the weight as it is, although no pass used the first encoding
    assert torch.equal(module.ctx.detach(), fake.encode(original).values.view(4, 64))
    refresh_(module)
    module.half().float()
    assert not fake.cache.holds(original)  # whether or not the weight lies where it lay


def test_moving_averages_may_be_changed_between_refresh_and_pass():
    module, fake, average = one(weights(4, 64), bits=2, min_interval=1)
    average.requires_grad_(False)
    for _ in range(3):  # the later ones are gated
        refresh_(module)
        average.data.mul_(0.5)
        assert torch.equal(module.ctx, fake.encode(average).values.view(4, 64))
