"""Each quantized trainer trains, stores exactly what it computes with, and adds to its parent nothing but that."""

import importlib

import pytest
import torch
from toy import toy_trainer

from qprompt.io.torch_files import read_checkpoint
from qprompt.prompt_files import packing
from qprompt.prompt_files.classifier import load_classifier
from qprompt.prompts.method import LEARNER
from qprompt.quantization.api import quantized_parameters

NODES = ("MAPLE.PROMPT_DEPTH", "IVLP.PROMPT_DEPTH_TEXT", "IVLP.PROMPT_DEPTH_VISION", "VPT.PROMPT_DEPTH_VISION")
DEPTHS = [word for node in NODES for word in (f"TRAINER.{node}", 2)]
TRAINERS = ("CoOp", "CoCoOp", "MaPLe", "IVLP", "VPT")


@pytest.fixture(autouse=True, params=TRAINERS)
def name(request):
    importlib.import_module(f"trainers.q{request.param.lower()}")
    return request.param


def settings(bits):
    return ("TRAINER.QUANT.BITS", bits, "OPTIM.MAX_EPOCH", 2, "TEST.NO_TEST", True, *DEPTHS)


def test_trains_and_stores_what_it_computes_with(name, tmp_path, clip_file):
    trainer = toy_trainer(tmp_path, clip_file, f"Q{name}", *settings(2))
    before = {key: weight.detach().clone() for key, (_, weight) in quantized_parameters(trainer.model).items()}
    trainer.train()
    after = quantized_parameters(trainer.model)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[key], weight) for key, (_, weight) in after.items())
    file = tmp_path / "output" / trainer.prompt_record["file"]
    stored = packing.load(file)
    _, state = read_checkpoint(next(tmp_path.glob("output/*/model.pth.tar-2")))
    packing.pack(state, tmp_path / "packed")  # keeps the levels
    packed = packing.load(tmp_path / "packed")
    assert packed.keys() == {key.removeprefix(LEARNER) for key in stored}
    assert all(torch.equal(packed[key.removeprefix(LEARNER)], tensor) for key, tensor in stored.items())
    for key, (fake, weight) in after.items():
        assert torch.equal(stored[key], fake(weight).detach()), key
        assert len(stored[key].unique()) <= 4 or key in trainer.half
    quantized = [weight for key, (_, weight) in after.items() if key not in trainer.half]
    assert trainer.prompt_record["payload_bytes"] == sum(-(-w.numel() * 2 // 8) + 8 for w in quantized)
    assert trainer.prompt_record["fp16_kept_bytes"] == 2 * sum(after[key][1].numel() for key in trainer.half)


def test_what_is_reported_is_what_the_stored_file_gives(name, tmp_path, clip_file):
    """Also by the run's own checkpoint, and by the unquantized trainer that reads its plain keys."""
    trainer = toy_trainer(tmp_path, clip_file, f"Q{name}", *settings(4))
    trainer.train()
    batch = next(iter(trainer.test_loader))["img"]
    with torch.no_grad():
        trainer.set_model_mode("eval")
        reported = trainer.model_inference(batch)
        file = tmp_path / "output" / trainer.prompt_record["file"]
        classifier = load_classifier(file, trainer.dm.dataset.classnames, backbone_path=clip_file)
        assert torch.equal(classifier(batch), reported)
        for again in (f"Q{name}", name):
            other = toy_trainer(tmp_path, clip_file, again, *settings(4), "OUTPUT_DIR", tmp_path / again)
            other.load_model(str(tmp_path / "output"), epoch=2)
            other.set_model_mode("eval")
            assert torch.equal(other.model_inference(batch), reported), again


def test_16_bits_after_training_change_nothing_but_rounding(name, tmp_path, clip_file):
    plain = toy_trainer(tmp_path, clip_file, name, *settings(1), "OUTPUT_DIR", tmp_path / "plain")
    plain.train()
    ptq = ("TRAINER.QUANT.MODE", "ptq", "OUTPUT_DIR", tmp_path / "quantized")
    quantized = toy_trainer(tmp_path, clip_file, f"Q{name}", *settings(16), *ptq)
    quantized.train()
    plain_weights = dict(plain.model.named_parameters())
    for key, (_, weight) in quantized_parameters(quantized.model).items():
        assert torch.equal(weight, plain_weights[key]), key  # trained as if nothing were quantized
        assert torch.equal(_read(quantized.model, key), weight.half().float())


def _read(module, name):
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)
