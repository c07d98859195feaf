"""Every prompt-learning method is one entry of a registry, which everything else reads."""

import pytest
import torch
from dassl.engine import TRAINER_REGISTRY
from torch import nn
from toy import CLASSES, toy_trainer
from yacs.config import CfgNode

from qprompt.errors import UserError
from qprompt.prompt_files.classifier import load_classifier
from qprompt.prompt_files.upstream import find_prompts
from qprompt.prompted_clip import Prompts, initial_context, prompt_layout
from qprompt.prompts import Method, find_method, get_method, method, methods, register, starting_bits
from qprompt.prompts.initial import require, restore_
from qprompt.quantization import quantizers
from qprompt.training.arguments import parse_args
from qprompt.training.registration import register_methods
from qprompt.training.settings import setup_cfg

WORDS = "a photo of a"


def settings_of(m, **changes):
    return CfgNode({**m.settings, **changes})


def stored(model):
    return {name.removeprefix("prompt_learner."): p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("m", methods(), ids=lambda m: m.name)
def test_a_learner_is_restored_from_its_tensors(m, clip_model):
    shallow = {key: 2 for key in m.settings if "DEPTH" in key}
    model = m.build(clip_model, CLASSES, settings_of(m, **shallow)).eval()
    tensors = stored(model)
    assert find_method(tensors) is m
    assert sorted(m.names(tensors)) == sorted(tensors)  # each tensor is quantized or stored in half precision
    again = m.model(clip_model, model.layout, m.restore(tensors), 0.0).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    with pytest.raises(UserError, match="it also holds surplus"):
        m.restore({**tensors, "surplus": torch.zeros(2)})
    name = next(n for n in tensors if n != "ctx" and "bias" in n) if len(m.half) else next(iter(tensors))
    with pytest.raises(UserError, match="it lacks|it also holds"):
        m.restore({n: t for n, t in tensors.items() if n != name})


@pytest.mark.parametrize("m", methods(), ids=lambda m: m.name)
def test_prompts_are_found_in_checkpoints_with_upstreams_keys(m, clip_model):
    model = m.build(clip_model, CLASSES, settings_of(m, **{key: 2 for key in m.settings if "DEPTH" in key}))
    state = m.checkpoint_module(model).state_dict()
    found = find_prompts({**state, "image_encoder.conv1.weight": torch.zeros(1), "token_prefix": torch.zeros(1)})
    assert found.method is m and sorted(found.prompts) == sorted(stored(model))
    assert sorted(m.checkpoint_key(name) for name in found.prompts) == sorted(state)
    assert all(map(m.is_learned, state)) and not m.is_learned("token_prefix")


def test_names_of_methods():
    assert get_method("MaPLe").folder == "MultiModalPromptLearner"
    with pytest.raises(UserError, match="Did you mean 'maple'"):
        get_method("mapel")
    with pytest.raises(ValueError, match="registered already"):
        register(get_method("coop"))
    assert find_method(["conv1.weight"]) is None


@pytest.mark.parametrize(
    "arguments, bits",
    [
        (["--trainer", "QMaPLe"], 4),
        (["--trainer", "QCoOp"], 1),
        (["TRAINER.NAME", "QVPT"], 4),
        (["--trainer", "QMaPLe", "TRAINER.QUANT.BITS", "2"], 2),
    ],
    ids=str,
)
def test_a_quantized_trainer_starts_with_the_bits_of_its_method(arguments, bits):
    cfg, defaults = setup_cfg(parse_args(arguments))
    assert bits == cfg.TRAINER.QUANT.BITS
    assert defaults.TRAINER.QUANT.BITS == 1  # what metrics.json counts as changed does not depend on the trainer


def test_a_trainer_in_a_config_file_starts_with_the_bits_of_its_method(tmp_path):
    (tmp_path / "a.yaml").write_text("TRAINER:\n  NAME: QIVLP\n")
    cfg, _ = setup_cfg(parse_args(["--config-file", str(tmp_path / "a.yaml")]))
    assert cfg.TRAINER.QUANT.BITS == starting_bits("QIVLP") == 4


# --- what a new method has to say: this much, in a module of qprompt/prompts


class ScaledContext(nn.Module):
    """Context vectors (n, D) that a learned scale (n, D) multiplies."""

    def __init__(self, context):
        super().__init__()
        self.ctx, self.scale = nn.Parameter(context), nn.Parameter(torch.ones_like(context))

    def forward(self):
        return Prompts(text=self.ctx * self.scale)


def initialize(clip_model, classnames, settings):
    context = initial_context(clip_model, settings.N_CTX, WORDS)
    return ScaledContext(context), prompt_layout(clip_model, classnames, WORDS, settings.N_CTX)


@pytest.fixture
def scaled(monkeypatch):
    monkeypatch.setattr(method, "_METHODS", dict(method._METHODS))
    known = dict(TRAINER_REGISTRY._obj_map)
    yield register(
        Method(
            name="Scaled",
            summary="CoOp with a scale",
            settings={"N_CTX": 4, "PREC": "fp32"},
            initialize=initialize,
            restore=lambda tensors: restore_(ScaledContext(*require(tensors, "ctx")), tensors),
            quantized=("ctx", "scale"),
            signature=("ctx", "scale"),
            bits=2,
        )
    )
    TRAINER_REGISTRY._obj_map.clear()
    TRAINER_REGISTRY._obj_map.update(known)


def test_a_new_method_is_a_trainer_a_quantized_trainer_and_a_prompt_file(scaled, clip_file, tmp_path):
    register_methods()
    assert {"Scaled", "QScaled"} <= set(TRAINER_REGISTRY.registered_names())
    assert starting_bits("QScaled") == 2
    trainer = toy_trainer(tmp_path, clip_file, "QScaled", "TRAINER.QUANT.BITS", 2)
    trainer.train()
    assert {row["name"]: row["bits"] for row in trainer.prompt_record["tensors"]} == {
        "prompt_learner.ctx": 2,
        "prompt_learner.scale": 2,
    }
    classifier = load_classifier(tmp_path / "output/prompt_learner/prompt.qprompt", CLASSES, backbone_path=clip_file)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(classifier(images), trainer.model.eval()(images))


def test_a_new_quantizer_is_one_function(monkeypatch, clip_file, tmp_path):
    monkeypatch.setattr(quantizers, "REGISTRY", dict(quantizers.REGISTRY))

    @quantizers.register("quantiles")
    def quantiles(x, k):
        return x.quantile((torch.arange(k) + 0.5) / k, dim=-1).T

    import trainers.qcoop  # noqa: F401

    trainer = toy_trainer(tmp_path, clip_file, "QCoOp", "TRAINER.QUANT.METHOD", "quantiles", "TRAINER.QUANT.BITS", 2)
    trainer.train()
    assert len(trainer.model.prompt_learner.ctx.unique()) == 4
