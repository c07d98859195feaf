"""CoOp and what all prompt trainers share: precision, checkpoints, errors."""

import math

import pytest
import torch
from equality import batches
from toy import CLASSES, toy_trainer

import trainers.cocoop
import trainers.coop  # noqa: F401
from qprompt.backbones.random_weights import TEST_SHAPE, random_state_dict, write_clip
from qprompt.errors import UserError

CONTEXT = ("TRAINER.COOP.N_CTX", 4)


@pytest.fixture(scope="module")
def trained(clip_file, tmp_path_factory):
    """(folder, trainer) of a finished CoOp run on the base classes."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = toy_trainer(folder, clip_file, "CoOp", *CONTEXT, "DATASET.SUBSAMPLE_CLASSES", "base")
    trainer.train()
    return folder, trainer


def test_training_learns_the_context_and_nothing_else(trained):
    _, trainer = trained
    assert [p for group in trainer.optim.param_groups for p in group["params"]] == [trainer.model.prompt_learner.ctx]
    assert all(p.grad is None for p in trainer.model.clip_model.parameters())


@pytest.mark.bundled_only
def test_checkpoint_holds_what_was_learned(trained):
    folder, trainer = trained
    path = folder / "output" / "prompt_learner" / "model.pth.tar-3"
    checkpoint = torch.load(path, weights_only=True)
    assert list(checkpoint["state_dict"]) == ["ctx"]
    assert checkpoint["state_dict"]["ctx"].shape == (4, 64)
    assert checkpoint["run"]["classnames"] == list(CLASSES[:3])
    assert len(checkpoint["run"]["backbone_sha256"]) == 64
    assert (path.parent / "checkpoint").read_text() == "model.pth.tar-3\n"


def test_trained_on_base_evaluated_on_new(trained, clip_file, capsys):
    folder, trainer = trained
    new = toy_trainer(folder, clip_file, "CoOp", *CONTEXT, "DATASET.SUBSAMPLE_CLASSES", "new")
    new.load_model(str(folder / "output"), epoch=3)
    assert torch.equal(new.model.prompt_learner.ctx, trainer.model.prompt_learner.ctx)
    new.test()
    assert "* total: 9" in capsys.readouterr().out


def test_features_kept_or_not_give_the_same_run(clip_file, tmp_path):
    results = []
    for cache in ("auto", "off"):
        trainer = toy_trainer(tmp_path / cache, clip_file, "CoOp", *CONTEXT, "FEATURE_CACHE", cache)
        trainer.train()
        results.append((trainer.model.prompt_learner.ctx.detach(), torch.rand(3)))
    assert torch.allclose(results[0][0], results[1][0], rtol=0, atol=1e-5)
    assert torch.equal(results[0][1], results[1][1])  # the random state was used alike


def test_random_transforms_are_not_kept(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, "INPUT.TRANSFORMS", "['random_flip', 'normalize']")
    assert next(iter(trainer.train_loader_x))["img"].shape == (6, 3, 32, 32)
    assert next(iter(trainer.test_loader))["img"].shape == (5, 48)


def test_logits_of_pixels_and_of_features_are_the_same(trained):
    _, trainer = trained
    image = next(iter(batches()))["img"]
    features = trainer.encode_images(image)
    with torch.no_grad():
        assert torch.equal(trainer.model_inference(image), trainer.model_inference(features))


@pytest.mark.parametrize("precision, used", [("fp16", "fp32"), ("amp", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_precision_on_a_cpu(clip_file, tmp_path, capsys, precision, used):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, "TRAINER.COOP.PREC", precision)
    said = "needs a GPU" in capsys.readouterr().out
    assert trainer.precision == used and said == (precision != used)
    trainer.num_batches, trainer.batch_idx = 9, 0
    summary = trainer.forward_backward(next(iter(batches())))
    assert math.isfinite(summary["loss"])
    assert trainer.model.prompt_learner.ctx.dtype == trainer.model.prompt_learner.ctx.grad.dtype == torch.float32


def test_a_loss_that_is_no_number_stops_the_run(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT)
    trainer.num_batches, trainer.batch_idx, trainer.epoch = 9, 4, 1
    with torch.no_grad():
        trainer.model.prompt_learner.ctx.fill_(float("nan"))
    with pytest.raises(UserError, match="loss is nan at epoch 2, batch 5"):
        trainer.forward_backward(next(iter(batches())))


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("pixels", "the pixels hold NaN"),
        ("gradient", "the gradient of prompt_learner.ctx holds NaN"),
        ("weights", "the weights of prompt_learner.ctx holds NaN"),
    ],
)
def test_numbers_that_are_none_are_named_and_earlier_checkpoints_stay(clip_file, tmp_path, where, words):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT)
    trainer.save_model(0, str(tmp_path))
    trainer.num_batches, trainer.batch_idx, trainer.epoch = 9, 4, 1
    batch = next(iter(batches()))
    context = trainer.model.prompt_learner.ctx
    if where == "pixels":
        batch["img"][0, 0, 0, 0] = float("inf")
    elif where == "gradient":
        context.register_hook(lambda grad: grad * float("nan"))
    else:
        step = trainer.optim.step
        trainer.optim.step = lambda: (step(), context.data.mul_(float("inf")))
    with pytest.raises(UserError, match=f"{words}.* at epoch 2, batch 5: training stopped"):
        trainer.forward_backward(batch)
    trainer.load_model(str(tmp_path), epoch=1)
    assert trainer.model_inference(batch["img"].nan_to_num(posinf=0)).isfinite().all()


def test_a_checkpoint_and_logits_that_are_no_numbers_are_refused(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT)
    with torch.no_grad():
        trainer.model.prompt_learner.ctx[0, 0] = float("nan")
    with pytest.raises(UserError, match="the logits hold NaN"):
        trainer.model_inference(next(iter(batches()))["img"])
    trainer.save_model(0, str(tmp_path))
    with pytest.raises(UserError, match="model.pth.tar-1 holds NaN or infinite values in ctx"):
        trainer.load_model(str(tmp_path), epoch=1)


def test_logit_scale_can_be_set(clip_file, tmp_path):
    own = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT)
    assert own.model.logit_scale == pytest.approx(100, rel=1e-3)
    given = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, "MODEL.LOGIT_SCALE", 32)
    assert given.model.logit_scale == 32


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_every_kind_of_context_trains(clip_file, tmp_path, position, class_specific):
    options = ["TRAINER.COOP.CLASS_TOKEN_POSITION", position, "TRAINER.COOP.CSC", class_specific]
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, *options)
    context = trainer.model.prompt_learner.ctx
    assert context.shape == ((6, 4, 64) if class_specific else (4, 64))
    before = context.detach().clone()
    trainer.num_batches, trainer.batch_idx = 9, 0
    trainer.forward_backward(next(iter(batches())))
    assert (context != before).all()


# --- mistakes


@pytest.mark.parametrize(
    "options, message",
    [
        (["TRAINER.COOP.PREC", "fp8"], "PREC is one of .* got 'fp8'"),
        (["TRAINER.COOP.CSC", True, "TRAINER.COOP.CTX_INIT", "a photo of a"], "CSC True starts from random"),
        (["TRAINER.COOP.CLASS_TOKEN_POSITION", "back"], "got 'back'"),
        (["INPUT.SIZE", "(224, 224)"], "expects 32 x 32 pixels"),
        (["MODEL.BACKBONE.PATH", "nowhere.pt"], "no file nowhere.pt"),
    ],
)
def test_mistakes_in_settings(clip_file, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        toy_trainer(tmp_path, clip_file, "CoOp", *options)


def fresh(folder, clip_file, *options):
    return toy_trainer(folder, clip_file, "CoOp", *CONTEXT, "DATASET.SUBSAMPLE_CLASSES", "base", *options)


def test_missing_checkpoints_say_what_is_there(trained, clip_file, tmp_path):
    folder, _ = trained
    trainer = fresh(folder, clip_file)
    with pytest.raises(UserError, match="There are epochs 3: type --load-epoch 3"):
        trainer.load_model(str(folder / "output"), epoch=50)
    with pytest.raises(UserError, match="model-best"):
        trainer.load_model(str(folder / "output"))
    with pytest.raises(UserError, match="holds no checkpoints"):
        trainer.load_model(str(tmp_path), epoch=3)


@pytest.mark.bundled_only
def test_broken_checkpoints(trained, clip_file, tmp_path):
    folder, _ = trained
    trainer = fresh(folder, clip_file)
    target = tmp_path / "prompt_learner" / "model.pth.tar-3"
    target.parent.mkdir()
    whole = (folder / "output" / "prompt_learner" / "model.pth.tar-3").read_bytes()
    for content in (whole[:900], b"noise", b""):
        target.write_bytes(content)
        with pytest.raises(UserError, match="model.pth.tar-3"):
            trainer.load_model(str(tmp_path), epoch=3)


def save(tmp_path, state, **more):
    target = tmp_path / "prompt_learner" / "model.pth.tar-3"
    target.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": state, "epoch": 3, **more}, target)


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(trained, clip_file, tmp_path):
    trainer = fresh(trained[0], clip_file)
    before = trainer.model.prompt_learner.ctx.detach().clone()
    for state, message in [
        ({"token_prefix": torch.zeros(3, 1, 64)}, "has no ctx"),
        ({"ctx": torch.zeros(4, 512)}, r"ctx has shape \(4, 512\) in the state dict, expected \(4, 64\)"),
        ({"ctx": torch.zeros(16, 64)}, r"expected \(4, 64\)"),
        ({"ctx": torch.zeros(4, 64), "meta_net.linear1.bias": torch.zeros(3)}, "holds meta_net.linear1.bias"),
    ]:
        save(tmp_path, state)
        with pytest.raises(UserError, match=message):
            trainer.load_model(str(tmp_path), epoch=3)
    assert torch.equal(trainer.model.prompt_learner.ctx, before)


def test_upstream_checkpoints_load_whatever_their_classes(trained, clip_file, tmp_path):
    trainer = fresh(trained[0], clip_file)
    context = torch.randn(4, 64)
    tokens = {"token_prefix": torch.zeros(99, 1, 64), "token_suffix": torch.zeros(99, 72, 64)}
    save(tmp_path, {"ctx": context.half(), **tokens}, optimizer={}, scheduler={}, val_result=None)
    trainer.load_model(str(tmp_path), epoch=3)
    assert torch.equal(trainer.model.prompt_learner.ctx, context.half().float())


@pytest.mark.bundled_only
def test_other_settings_than_the_checkpoints(trained, clip_file, tmp_path):
    folder = trained[0]
    other = fresh(folder, clip_file, "TRAINER.COOP.CLASS_TOKEN_POSITION", "front")
    with pytest.raises(UserError, match="type TRAINER.COOP.CLASS_TOKEN_POSITION end"):
        other.load_model(str(folder / "output"), epoch=3)

    write_clip(tmp_path / "other.pt", random_state_dict(TEST_SHAPE, seed=1), TEST_SHAPE)
    with pytest.raises(UserError, match="other backbone weights"):
        fresh(folder, tmp_path / "other.pt").load_model(str(folder / "output"), epoch=3)


@pytest.mark.bundled_only
def test_class_specific_contexts_belong_to_their_classes(clip_file, tmp_path):
    def build(classes):
        options = ["TRAINER.COOP.CSC", True, "DATASET.SUBSAMPLE_CLASSES", classes]
        return toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, *options)

    build("base").save_model(0, str(tmp_path / "csc"))
    build("base").load_model(str(tmp_path / "csc"), epoch=1)
    with pytest.raises(UserError, match="class-specific contexts of 3 other classes"):
        build("new").load_model(str(tmp_path / "csc"), epoch=1)


def test_initial_weights_from_a_checkpoint(trained, clip_file):
    folder, trainer = trained
    path = folder / "output" / "prompt_learner" / "model.pth.tar-3"
    started = fresh(folder, clip_file, "MODEL.INIT_WEIGHTS", path)
    assert torch.equal(started.model.prompt_learner.ctx, trainer.model.prompt_learner.ctx)


@pytest.mark.bundled_only
def test_a_resumed_run_is_the_run_that_was_not_interrupted(clip_file, tmp_path):
    def run(folder, epochs):
        options = ["TRAIN.CHECKPOINT_FREQ", 1]
        trainer = toy_trainer(folder, clip_file, "CoOp", *CONTEXT, *options)
        trainer.max_epoch = epochs
        trainer.train()
        return trainer.model.prompt_learner.ctx.detach()

    whole = run(tmp_path / "whole", 3)
    run(tmp_path / "halves", 1)
    assert torch.equal(run(tmp_path / "halves", 3), whole)


@pytest.mark.parametrize("name", ["CoOp", "CoCoOp"])
def test_a_bound_on_text_memory_changes_no_result(clip_file, tmp_path, monkeypatch, capsys, name):
    ends = []
    monkeypatch.setattr("qprompt.training.text_memory.MB", 1)
    monkeypatch.setattr("qprompt.prompted_clip.memory.BLOCK_ROWS", 1)
    for bound in (-1, 1):
        options = ("TRAINER.COOP.N_CTX", 4, "TRAINER.COCOOP.N_CTX", 4, "TEXT_MEMORY_MB", bound)
        trainer = toy_trainer(tmp_path / str(bound), clip_file, name, *options)
        trainer.train()
        ends.append(trainer.model.prompt_learner.ctx.detach())
    assert (ends[0] - ends[1]).abs().max() <= 2e-5 * ends[0].abs().max()
    said = capsys.readouterr().out
    assert said.count("Memory of a training step: weights") == 2
    assert said.count("Text is encoded in 6 parts, 6 of them again for backward") == 1


# --- runs that would end without having learned anything


def with_scaler(trainer, scale=2.0**16):
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


FIRST_STEP_SKIPPED = "ignore:Detected call of `lr_scheduler.step:UserWarning"


@pytest.mark.filterwarnings(FIRST_STEP_SKIPPED)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_run_with_bad_gradients_in_every_step_stops_and_names_the_tensor(clip_file, tmp_path, value):
    trainer = with_scaler(toy_trainer(tmp_path, clip_file, "CoOp", "OPTIM.MAX_EPOCH", 30))
    trainer.model.prompt_learner.ctx.register_hook(lambda gradient: gradient * value)
    with pytest.raises(UserError, match=r"gradient of prompt_learner.ctx holds NaN .* in every step \(17 in a row"):
        trainer.train()
    assert not list(tmp_path.glob("output/**/*.qprompt"))


def test_a_few_skipped_steps_are_counted_and_pass(clip_file, tmp_path):
    trainer = with_scaler(toy_trainer(tmp_path, clip_file, "CoOp"))
    seen = []

    def spoil(gradient):
        seen.append(1)
        return gradient * torch.nan if len(seen) in (2, 3) else gradient

    trainer.model.prompt_learner.ctx.register_hook(spoil)
    trainer.train()
    assert trainer.guard.skipped == 2 and trainer.guard.steps == len(seen)
    again = with_scaler(toy_trainer(tmp_path, clip_file, "CoOp"))  # resumed after its last epoch
    again.train()
    assert again.guard.skipped == 2 and again.guard.steps == len(seen)


def test_a_run_that_moves_no_weight_has_no_result(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", "OPTIM.WEIGHT_DECAY", 0.0)
    trainer.model.prompt_learner.ctx.register_hook(torch.zeros_like)  # as with equal features of all classes
    with pytest.raises(UserError, match="12 training steps changed none of the learned weights .* a larger OPTIM"):
        trainer.train()
    with pytest.raises(UserError, match="12 training steps changed none of the learned weights"):
        toy_trainer(tmp_path, clip_file, "CoOp", "OPTIM.WEIGHT_DECAY", 0.0).train()  # from its last checkpoint
    assert not list(tmp_path.glob("output/**/*.qprompt"))


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_learning_rate_that_learns_nothing_is_refused(clip_file, tmp_path, rate):
    with pytest.raises(UserError, match="OPTIM.LR is .*, expected more than 0"):
        toy_trainer(tmp_path, clip_file, "CoOp", "OPTIM.LR", rate)
