"""Linear layers through oneDNN equal F.linear to rounding, and are used only where they are faster."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from equality import assert_close

from qprompt.prompted_clip import encode_image, encode_text, image, initial_context, onednn_linear, prompt_layout

decide = onednn_linear.onednn_is_faster.__wrapped__
NAMES = ["cat", "big dog", "a very small red house on a hill", *(f"traffic light {i}" for i in range(40))]


@pytest.mark.parametrize("shape", [(7, 24), (2, 3, 24), (2, 1, 3, 24), (0, 24)])
@pytest.mark.parametrize("strided", [False, True])
def test_equals_linear(onednn, shape, strided):
    x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2] if strided else torch.randn(shape)
    weight, bias = torch.randn(60, 24)[10:50], torch.randn(40)
    given = [x.detach().requires_grad_() for _ in range(2)]
    functions = F.linear, onednn_linear.linear
    results = [linear(x, weight, bias) for linear, x in zip(functions, given, strict=True)]
    grad = torch.randn(results[0].shape).mT.contiguous().mT
    gradients = [torch.autograd.grad(*each, grad)[0] for each in zip(results, given, strict=True)]
    assert_close([results[0], gradients[0]], [results[1], gradients[1]])
    assert len(onednn) == 2  # forward and backward
    with torch.no_grad():
        assert torch.equal(onednn_linear.linear(x, weight, bias), results[1])


def test_result_may_be_changed_in_place(onednn):
    x, weight, bias = torch.randn(2, 3, 8, requires_grad=True), torch.randn(5, 8), torch.randn(5)
    onednn_linear.linear(x, weight, bias).mul_(2).sum().backward()
    assert torch.allclose(x.grad, 2 * weight.sum(0).expand(2, 3, -1))


def test_trained_weight_gets_its_gradient(onednn):
    weight = torch.randn(5, 8, requires_grad=True)
    onednn_linear.linear(torch.randn(3, 8), weight, torch.randn(5)).sum().backward()
    assert weight.grad is not None and not onednn


def test_trained_bias_gets_its_gradient(onednn):
    bias = torch.randn(5, requires_grad=True)
    onednn_linear.linear(torch.randn(3, 8), torch.randn(5, 8), bias).sum().backward()
    assert bias.grad is not None and not onednn


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap runs it once per entry
def test_gradients_of_gradients_and_torch_func(onednn):
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8)

    def loss(x, multiply=onednn_linear.linear):
        return multiply(x, weight).square().sum()

    (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (twice,) = torch.autograd.grad(grad.sum(), x)
    assert torch.allclose(twice, (2 * weight.T @ weight).sum(0).expand(3, -1), atol=1e-4)
    assert torch.allclose(torch.func.grad(loss)(x.detach()), grad, atol=1e-4)
    many = torch.func.vmap(torch.func.grad(loss))(torch.stack([x.detach(), -x.detach()]))
    assert torch.allclose(many, torch.stack([grad, -grad]), atol=1e-4)


def test_single_row(onednn):
    x, weight, bias = torch.randn(8), torch.randn(5, 8), torch.randn(5)
    assert torch.equal(onednn_linear.linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.filterwarnings("ignore:TF32")  # a warning of mkldnn.flags itself
def test_switched_off(onednn):
    with torch.backends.mkldnn.flags(enabled=False):
        onednn_linear.linear(torch.randn(3, 8), torch.randn(5, 8))
    assert not onednn


def test_small_products_use_torch(onednn, monkeypatch):
    monkeypatch.setattr(onednn_linear, "MIN_MULTIPLICATIONS", 3 * 8 * 5)
    weight, bias = torch.randn(5, 8), torch.randn(5)
    onednn_linear.linear(torch.randn(2, 8), weight, bias)
    assert not onednn
    onednn_linear.linear(torch.randn(3, 8), weight, bias)
    assert onednn


def test_other_types_than_fp32_use_torch(onednn):
    x, weight, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    assert onednn_linear.linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert onednn_linear.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert onednn_linear.linear(x, weight, bias).dtype == torch.bfloat16
    assert not onednn


def test_encoders(onednn, clip_model, monkeypatch):
    layout = prompt_layout(clip_model, NAMES, "a photo of a", 4)
    assert layout.mask.dim() == 4  # several blocks
    context = initial_context(clip_model, 4).requires_grad_()
    vectors = torch.randn(2, 128, requires_grad=True)
    pixels = torch.randn(3, 3, 32, 32)
    results = []
    for reference in "10":
        monkeypatch.setenv("QPROMPT_REFERENCE", reference)
        features = [encode_text(clip_model, layout, context), encode_image(clip_model, pixels, vectors)]
        loss = sum((f * torch.linspace(-1, 1, f.shape[-1])).sum() for f in features)
        results.append([*features, *torch.autograd.grad(loss, [context, vectors])])
        assert bool(onednn) == (reference == "0")  # the plain path never uses oneDNN
    assert_close(*results)


AMD, INTEL = "AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD", "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel"


@pytest.mark.parametrize(
    "cpuinfo, processor, changed, faster",
    [
        ("vendor_id\t: AuthenticAMD\n", "", {}, True),
        ("vendor_id\t: GenuineIntel\n", "", {}, False),
        (None, AMD, {}, True),  # not Linux
        (None, INTEL, {}, False),
        ("Features\t: fp asimd\n", INTEL, {}, False),  # names no vendor
        ("vendor_id\t: AuthenticAMD\n", "", {"torch.backends.cpu.get_cpu_capability": lambda: "AVX2"}, False),
        ("vendor_id\t: AuthenticAMD\n", "", {"torch.backends.mkl.is_available": lambda: False}, False),
        ("vendor_id\t: AuthenticAMD\n", "", {"torch.backends.mkldnn.is_available": lambda: False}, False),
        ("vendor_id\t: AuthenticAMD\n", "", {"torch.ops.mkldnn": object()}, False),
    ],
)
def test_choice_of_cpus(onednn, monkeypatch, tmp_path, cpuinfo, processor, changed, faster):
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{cpuinfo}")
    monkeypatch.setattr(onednn_linear, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.processor", lambda: processor)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    for library in ("mkl", "mkldnn"):
        monkeypatch.setattr(f"torch.backends.{library}.is_available", lambda: True)
    for name, value in changed.items():
        monkeypatch.setattr(name, value)
    assert decide() == faster


def exported(function, x):
    class Module(torch.nn.Module):
        def forward(self, x):
            return function(x)

    shapes = ({0: torch.export.Dim("batch", min=1)},)
    return torch.export.export(Module(), (x,), dynamic_shapes=shapes, strict=False).module()


def test_graphs_for_any_batch(onednn, clip_model, monkeypatch):
    monkeypatch.setattr(image, "ROWS", 1)
    layout = prompt_layout(clip_model, NAMES, "a photo of a", 4)
    pixels, contexts = torch.randn(3, 3, 32, 32), torch.randn(3, 1, 4, 64)
    encoders = ((partial(encode_image, clip_model), pixels), (partial(encode_text, clip_model, layout), contexts))
    for encode, given in encoders:
        graph = exported(encode, given[:2])
        assert not onednn
        with torch.no_grad():
            assert_close([graph(given)], [encode(given)])
        assert onednn
        onednn.clear()
