"""Quantized classes derived from trainers with the habits of CoOp's descendants, in this process."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import Registry, set_random_seed

from qprompt.dropin.registry import offer_quantized, quantized_class
from qprompt.errors import UserError
from qprompt.io.logs import show_logs
from qprompt.quantization.api import quantized_parameters
from qprompt.training import selection
from qprompt.training.defaults import add_quant_cfg

MINIATURE = Path(__file__).resolve().parent / "dropin_checkout"


@pytest.fixture(scope="module", autouse=True)
def miniature():
    """Import the modules of the miniature checkout, whose names are in `sys.modules` only meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, part in (("clip", "clip/__init__"), ("dots", "datasets/dots"), ("prompted", "trainers/prompted")):
            spec = importlib.util.spec_from_file_location(name, MINIATURE / f"{part}.py")
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
    yield
    for name in [n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__ == "prompted"]:
        del TRAINER_REGISTRY._obj_map[name]


@pytest.fixture
def build(tmp_path):
    """build("QX", KEY, value, ...) -> the trainer, seeded, on the miniature data set, with 3 epochs."""

    def make(name, *options, output="output", seed=1):
        show_logs()
        cfg = get_cfg_default()
        add_quant_cfg(cfg)
        cfg.DATASET.SUBSAMPLE_CLASSES = "all"
        cfg.TRAINER.PROMPTED = type(cfg)({"N_CTX": 4})
        settings = {
            "INPUT.SIZE": (8, 8),
            "INPUT.TRANSFORMS": ("normalize",),
            "DATASET.NAME": "Dots",
            "DATASET.ROOT": str(tmp_path),
            "OUTPUT_DIR": str(tmp_path / output),
            "DATALOADER.NUM_WORKERS": 0,
            "OPTIM.NAME": "sgd",
            "OPTIM.LR": 0.5,
            "OPTIM.MAX_EPOCH": 3,
            "OPTIM.LR_SCHEDULER": "cosine",
            "DATALOADER.TRAIN_X.BATCH_SIZE": 6,
            "TRAINER.NAME": name,
            "USE_CUDA": False,
        }
        settings |= dict(zip(options[::2], options[1::2], strict=True))
        cfg.merge_from_list([word for pair in settings.items() for word in pair])
        cfg.freeze()
        base = TRAINER_REGISTRY.get(name.removeprefix("Q"))
        set_random_seed(seed)
        return (quantized_class(base) if name.startswith("Q") else base)(cfg)

    return make


def names(trainer):
    return list(quantized_parameters(trainer.prompted))


def logits(trainer, seed=0):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return trainer.model_inference(images).detach()


def test_trained_matrices_of_prompts_are_quantized(build, capsys):
    trainer = build("QPrompted")
    assert names(trainer) == ["prompt_learner.ctx", "prompt_learner.proj.weight"]  # no biases, no frozen weights
    table = capsys.readouterr().out
    assert all(word in table for word in ("prompt_learner.ctx", "4 x 8", "1 bit", "prompt_learner.proj.bias", "fp16"))


def test_include_and_exclude_replace_the_conditions(build):
    assert names(build("QPrompted", "TRAINER.QUANT.EXCLUDE", ("*.weight",))) == ["prompt_learner.ctx"]
    included = ("*.proj.*", "text_encoder.0.weight")
    assert names(build("QPrompted", "TRAINER.QUANT.INCLUDE", included)) == [
        "prompt_learner.proj.weight",
        "prompt_learner.proj.bias",
        "text_encoder.0.weight",
    ]


def test_without_a_match_the_error_lists_the_candidates(build):
    with pytest.raises(UserError, match=r"INCLUDE .*text_encoder\.0\.weight \(8, 8\)"):
        build("QAdapter")
    assert names(build("QAdapter", "TRAINER.QUANT.INCLUDE", ("text_encoder.*.weight",))) == [
        "text_encoder.0.weight",
        "text_encoder.2.weight",
    ]
    with pytest.raises(UserError, match="QZeroShot trains no parameter"):
        build("QZeroShot")


def test_second_references_to_full_precision_values_are_refused(build):
    with pytest.raises(UserError, match=r"prompt_learner\.ctx is also model\.text_encoder\.context"):
        build("QTied")
    with pytest.raises(UserError, match=r"QAverageByName\.shadow, .* the name prompt_learner\.ctx"):
        build("QAverageByName")


def test_separately_trained_models_are_all_quantized(build, tmp_path):
    trainer = build("QTwoModels")
    expected = ["text_prompts.prompt_learner.ctx", "image_prompts.prompt_learner.ctx"]
    assert names(trainer) == expected
    trainer.train()
    after = logits(trainer)
    fresh = build("QTwoModels", seed=2)
    fresh.load_run_state = lambda state: None  # only the weights are loaded
    fresh.resume_model_if_exist(str(tmp_path / "output"))
    assert torch.equal(logits(fresh), after)


def test_aggregated_state_dicts_average_the_full_precision_prompts(build):
    trainer, per_epoch = build("QAggregated", "TRAINER.QUANT.BITS", 3), []
    update_lr = trainer.update_lr

    def record():
        per_epoch.append([weight.detach().clone() for _, weight in quantized_parameters(trainer.prompted).values()])
        update_lr()

    trainer.update_lr = record
    trainer.train()
    assert len(per_epoch) == 3
    for (fake, weight), *history in zip(quantized_parameters(trainer.prompted).values(), *per_epoch, strict=True):
        torch.testing.assert_close(weight.detach(), sum(history) / 3)
        assert fake.fits >= 2  # also to the average
        codebook = fake.codebook.clone()
        fake.fit(weight)
        assert torch.equal(fake.codebook, codebook)  # the codebook was fitted, not averaged
    assert not any("parametrizations" in key for key in trainer.average)


@pytest.mark.parametrize("name", ["QEarlyAverage", "QLateAverage"])
def test_moving_average_is_quantized_and_refreshed(build, name):
    trainer = build(name, "TRAINER.QUANT.POLICY", "every")
    trainer.train()
    assert [copy is trainer.ema for copy in trainer.copies] == [True]
    for fake, weight in quantized_parameters(trainer.ema).values():
        assert len(fake(weight).unique()) == 2
        assert fake.fits > 3  # to its own weights
    ours, theirs = (list(quantized_parameters(m).values()) for m in (trainer.prompted, trainer.ema))
    assert all(not torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def test_learned_step_size_is_trained_in_a_derived_class(build):
    trainer = build("QPrompted", "TRAINER.QUANT.METHOD", "lsq", "TRAINER.QUANT.BITS", 2)
    before = {n: p.detach().clone() for n, p in trainer.prompted.named_parameters() if p.requires_grad}
    trainer.train()
    moved = {n for n, p in trainer.prompted.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert moved == set(before)


def test_optimizer_of_the_trainer_keeps_its_learning_rates(build):
    trainer = build("QOwnOptimizer")
    assert [group["lr"] for group in trainer.optim.param_groups] == [0.01, 0.1]
    trainer.train()
    with pytest.raises(UserError, match="METHOD lsq trains step sizes too"):
        build("QOwnOptimizer", "TRAINER.QUANT.METHOD", "lsq", "TRAINER.QUANT.BITS", 2)


def test_full_precision_checkpoint_starts_a_quantized_run(build, tmp_path):
    plain = build("Prompted", output="plain")
    plain.train()
    path = tmp_path / "plain" / "prompt_learner" / "model.pth.tar-3"
    trainer = build("QPrompted", "MODEL.INIT_WEIGHTS", str(path), seed=2)
    for name, (_, weight) in quantized_parameters(trainer.prompted).items():
        assert torch.equal(weight, plain.model.get_parameter(name))


@pytest.mark.bundled_only
def test_full_precision_run_is_not_resumed_as_a_quantized_run(build):
    build("Prompted").train()
    with pytest.raises(UserError, match=r"not of QPrompted\. .*MODEL\.INIT_WEIGHTS"):
        build("QPrompted").train()


def test_ptq_quantizes_after_training(build):
    trainer = build("QPrompted", "TRAINER.QUANT.MODE", "ptq")
    trainer.train()
    plain = build("Prompted", output="plain")
    plain.train()
    for name, (fake, weight) in quantized_parameters(trainer.prompted).items():
        assert torch.equal(weight, plain.model.get_parameter(name))  # trained as without quantization
        assert len(fake(weight).unique()) == 2


def test_registry_offers_a_quantized_class_per_trainer():
    registry = Registry("TRAINER")

    class Prompt:
        def build_model(self): ...

        def forward_backward(self, batch): ...

    class Quick:  # its name begins with Q, and there is no "uick"
        pass

    class QOwn(Prompt):
        pass

    class Own(Prompt):
        pass

    for cls in (Prompt, Quick, QOwn, Own):
        registry.register(cls)
    offer_quantized(registry)
    assert registry.registered_names() == ["Prompt", "Quick", "QOwn", "Own", "QPrompt", "QQuick", "QQOwn"]
    assert registry.get("Prompt") is Prompt
    assert registry.get("QOwn") is QOwn
    derived = registry.get("QPrompt")
    assert derived is registry.get("QPrompt")
    assert derived.__name__ == "QPrompt"
    assert issubclass(derived, Prompt)
    with pytest.raises(UserError, match="there is no QQuick"):
        registry.get("QQuick")
    with pytest.raises(KeyError):
        registry.get("QMissing")


def test_data_parallel_and_averaged_models_are_unwrapped():
    layer = torch.nn.Linear(2, 2)
    assert selection.unwrapped(torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(layer))).weight.shape == (2, 2)
    assert selection.unwrapped(layer) is layer
