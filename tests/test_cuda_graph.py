"""Encoders as CUDA graphs: on a CPU simulated by their static tensors, on a GPU the real ones."""

import pytest
import torch
from toy import toy_trainer

from qprompt.errors import UserError
from qprompt.prompted_clip.cuda_graph import Captured
from qprompt.runs.project import find_project
from qprompt.training.project import register_project

register_project(find_project())

TRAINERS = {
    "QCoOp": ["INPUT.TRANSFORMS", "['random_flip', 'normalize']", "FEATURE_CACHE", "off"],
    "QCoCoOp": [],
    "QMaPLe": ["TRAINER.MAPLE.PROMPT_DEPTH", 2],
    "QVPT": [],
}


@pytest.fixture
def captures(monkeypatch):
    """Simulate ``torch.cuda.make_graphed_callables`` and list the shapes that it was called with.

    As in a graph, arguments are copied to static tensors, and each replay overwrites the result of the one before.
    """
    seen = []

    def make(function, samples):
        seen.append([tuple(sample.shape) for sample in samples])
        results = []

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *tensors):
                with torch.no_grad():
                    for sample, tensor in zip(samples, tensors, strict=True):
                        sample.copy_(tensor)
                with torch.enable_grad():
                    ctx.out = function(*samples)
                if not results:
                    results.append(torch.empty_like(ctx.out.detach()))
                return results[0].copy_(ctx.out.detach()).detach()

            @staticmethod
            def backward(ctx, grad):
                trained = [sample for sample in samples if sample.requires_grad]
                grads = iter(torch.autograd.grad(ctx.out, trained, grad))
                return tuple(next(grads) if sample.requires_grad else None for sample in samples)

        return Replay.apply

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    return seen


def trained(folder, clip_file, trainer, capture, *options):
    built = toy_trainer(folder, clip_file, trainer, *TRAINERS[trainer], *options)
    if capture:
        built.model.capture_graphs_()
    built.train()
    return {name: p.detach().cpu().clone() for name, p in built.model.named_parameters()}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_training_with_graphs_equals_training_without(tmp_path, clip_file, captures, trainer):
    plain = trained(tmp_path / "plain", clip_file, trainer, False)
    assert not captures
    ours = trained(tmp_path / "graph", clip_file, trainer, True)
    assert captures and all(torch.equal(ours[name], plain[name]) for name in plain)


def test_other_shapes_and_evaluation_compute_without_a_graph(captures):
    double = Captured(lambda x, y: 2 * x + y)
    x, y = torch.ones(3, requires_grad=True), torch.zeros(3)
    with torch.no_grad():
        assert torch.equal(double(x, y), torch.full((3,), 2.0)) and not captures
    for _ in range(2):
        assert torch.equal(double(x, y), torch.full((3,), 2.0)) and captures == [[(3,), (3,)]]
    for others in ((torch.ones(4), torch.ones(4, requires_grad=True)), (torch.ones(3), torch.ones(3))):
        assert torch.equal(double(*others), torch.full_like(others[0], 3.0)) and len(captures) == 1
    (double(x, y) * 3).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 6.0))


def test_what_has_no_backward_pass_is_not_captured(captures):
    """PyTorch 2.4 fails: "grad requires non-empty inputs"."""
    assert torch.equal(Captured(lambda x: 2 * x)(torch.ones(3)), torch.full((3,), 2.0)) and not captures


def test_on_a_cpu_it_has_no_effect_and_says_so(tmp_path, clip_file, captures, capsys):
    trainer = toy_trainer(tmp_path, clip_file, "QCoOp", "CUDA_GRAPH", True, "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    assert "CUDA_GRAPH has no effect on the CPU" in capsys.readouterr().out and not captures


def test_text_in_parts_is_refused(tmp_path, clip_file):
    trainer = toy_trainer(tmp_path, clip_file, "QCoOp", "CUDA_GRAPH", True)
    trainer.device = torch.device("cuda")
    trainer.model.layout.split_(trainer.model.clip_model, 30)
    with pytest.raises(UserError, match="type CUDA_GRAPH False, or TEXT_MEMORY_MB 0"):
        trainer.capture_graphs()


def test_a_capture_that_fails_says_what_to_type(monkeypatch):
    def fail(error):
        def make(function, samples):
            raise error

        monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
        Captured(torch.sin)(torch.ones(2, requires_grad=True))

    with pytest.raises(UserError, match=r"\(operation not permitted.*capturing\): type CUDA_GRAPH False\.$"):
        fail(RuntimeError("operation not permitted when stream is capturing.\nCompile with ..."))
    with pytest.raises(torch.cuda.OutOfMemoryError):  # has advice of its own
        fail(torch.cuda.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "amp"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_training_with_real_graphs_equals_training_without(tmp_path, clip_file, trainer, precision):
    node = trainer.removeprefix("Q").upper()
    options = ["USE_CUDA", True, f"TRAINER.{node}.PREC", precision, "DETERMINISTIC", True]
    plain = trained(tmp_path / "plain", clip_file, trainer, False, *options)
    ours = trained(tmp_path / "graph", clip_file, trainer, False, *options, "CUDA_GRAPH", True)
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-3, atol=1e-5)
