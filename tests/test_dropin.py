"""Quantized classes derived from trainers with the habits of CoOp's descendants, in this process."""

import pytest
import torch
from dassl.utils import Registry

from qprompt.dropin.registry import offer_quantized
from qprompt.errors import UserError
from qprompt.quantization.api import quantized_parameters
from qprompt.training import selection
from tests.miniature import build_in, checkout  # noqa: F401 (fixtures)


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
    lsq = build("QOwnOptimizer", "TRAINER.QUANT.METHOD", "lsq", "TRAINER.QUANT.BITS", 2, output="lsq")
    assert [group["lr"] for group in lsq.optim.param_groups] == [0.01, 0.1]
    steps = [fake.step_size for fake, _ in quantized_parameters(lsq.prompted).values()]
    before = [step.detach().clone() for step in steps]
    lsq.train()
    assert not any(map(torch.equal, steps, before))


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
