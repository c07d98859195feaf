"""MaPLe, IVLP and VPT: what they save, what they load, what they refuse."""

import pytest
import torch
from toy import toy_trainer

import trainers.ivlp
import trainers.maple
import trainers.vpt  # noqa: F401
from qprompt.backbones.random_weights import ClipShape, random_state_dict, write_clip
from qprompt.errors import UserError

DEPTH = ("TRAINER.MAPLE.PROMPT_DEPTH", 3)
CASES = {
    "MaPLe": ("MultiModalPromptLearner", DEPTH),
    "IVLP": ("VLPromptLearner", ("TRAINER.IVLP.PROMPT_DEPTH_VISION", 3, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", 2)),
    "VPT": ("prompt_learner", ("TRAINER.VPT.PROMPT_DEPTH_VISION", 2)),
}
NAMES = {
    "MaPLe": [
        "prompt_learner.ctx",
        "prompt_learner.proj.weight",
        "prompt_learner.proj.bias",
        *(f"prompt_learner.compound_prompts_text.{i}" for i in (0, 1)),
        *(f"prompt_learner.compound_prompt_projections.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")),
    ],
    "IVLP": [
        "prompt_learner.ctx",
        "text_encoder.transformer.resblocks.1.VPT_shallow",
        "image_encoder.VPT",
        *(f"image_encoder.transformer.resblocks.{i}.VPT_shallow" for i in (1, 2)),
    ],
    "VPT": ["image_encoder.VPT", "image_encoder.transformer.resblocks.1.VPT_shallow"],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.bundled_only
def test_train_save_and_load(clip_file, tmp_path, name):
    folder, options = CASES[name]
    trainer = toy_trainer(tmp_path, clip_file, name, *options, "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    checkpoint = torch.load(tmp_path / "output" / folder / "model.pth.tar-1", weights_only=True)
    assert list(checkpoint["state_dict"]) == NAMES[name]  # the learned tensors alone, under upstream's names

    other = toy_trainer(tmp_path, clip_file, name, *options, "DATASET.SUBSAMPLE_CLASSES", "new", seed=2)
    other.load_model(str(tmp_path / "output"), epoch=1)
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[key], value)
    other.test()


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_with_the_whole_clip_inside(clip_file, clip_weights, tmp_path, name):
    folder, options = CASES[name]
    trainer = toy_trainer(tmp_path, clip_file, name, *options)
    state = {key: torch.full_like(value, 0.25).half() for key, value in trainer.model.state_dict().items()}
    for key, value in clip_weights.items():
        inside = key.replace("visual.", "image_encoder.", 1) if key.startswith("visual.") else f"text_encoder.{key}"
        state[inside] = value
    tokens = {f"prompt_learner.{part}": torch.zeros(9, 1, 64) for part in ("token_prefix", "token_suffix")}
    target = tmp_path / "upstream" / folder
    target.mkdir(parents=True)
    torch.save({"state_dict": state | tokens, "epoch": 5}, target / "model.pth.tar-5")
    trainer.load_model(str(tmp_path / "upstream"), epoch=5)
    assert all((value == 0.25).all() for value in trainer.model.state_dict().values())
    assert torch.equal(trainer.model.clip_model.text_projection, clip_weights["text_projection"])


@pytest.mark.parametrize("name, depth", [("MaPLe", "TRAINER.MAPLE.PROMPT_DEPTH"), ("VPT", CASES["VPT"][1][0])])
def test_another_depth_is_refused_either_way(clip_file, tmp_path, name, depth):
    def build(layers):
        return toy_trainer(tmp_path, clip_file, name, depth, layers)

    build(2).save_model(0, str(tmp_path / "two"))
    build(3).save_model(0, str(tmp_path / "three"))
    with pytest.raises(UserError, match="does not fit .* has no"):
        build(3).load_model(str(tmp_path / "two"), epoch=1)
    with pytest.raises(UserError, match="has no place"):
        build(2).load_model(str(tmp_path / "three"), epoch=1)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("MaPLe", ["TRAINER.MAPLE.PROMPT_DEPTH", 4], "supports 1 to 3"),  # the text branch has 3 layers
        ("MaPLe", ["TRAINER.MAPLE.PROMPT_DEPTH", 0], "supports 1 to 3"),
        ("MaPLe", ["TRAINER.MAPLE.PROMPT_DEPTH", 2, "TRAINER.MAPLE.CTX_INIT", "photo"], "2 context vectors"),
        ("IVLP", ["TRAINER.IVLP.PROMPT_DEPTH_VISION", 5, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", 1], "supports 1 to 4"),
        ("IVLP", ["TRAINER.IVLP.PROMPT_DEPTH_TEXT", 0], "supports 1 to 3"),
        ("VPT", ["TRAINER.VPT.PROMPT_DEPTH_VISION", 5], "supports 1 to 4"),
    ],
)
def test_impossible_settings(clip_file, tmp_path, name, options, message):
    with pytest.raises(UserError, match=message):
        toy_trainer(tmp_path, clip_file, name, *options)


@pytest.mark.bundled_only
def test_other_words_than_the_checkpoints(clip_file, tmp_path):
    toy_trainer(tmp_path, clip_file, "MaPLe", *DEPTH).save_model(0, str(tmp_path / "run"))
    other = toy_trainer(tmp_path, clip_file, "MaPLe", *DEPTH, "TRAINER.MAPLE.CTX_INIT", "a drawing of a")
    with pytest.raises(UserError, match="type TRAINER.MAPLE.CTX_INIT a photo of a"):
        other.load_model(str(tmp_path / "run"), epoch=1)


def test_a_resnet_is_refused(tmp_path):
    shape = ClipShape(32, 32, (1, 1, 1, 1), 8, None, 64, 1, 2)
    write_clip(tmp_path / "rn.pt", random_state_dict(shape), shape)
    with pytest.raises(UserError, match="needs a ViT backbone"):
        toy_trainer(tmp_path, tmp_path / "rn.pt", "MaPLe", "TRAINER.MAPLE.PROMPT_DEPTH", 1)


def test_image_features_are_kept_only_where_they_stay(clip_file, tmp_path):
    deep = toy_trainer(tmp_path, clip_file, "MaPLe", *DEPTH)
    assert next(iter(deep.train_loader_x))["img"].dim() == 4
    options = ["TRAINER.IVLP.PROMPT_DEPTH_VISION", 0, "TRAINER.IVLP.N_CTX_VISION", 0]
    text_only = toy_trainer(tmp_path, clip_file, "IVLP", *options, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", 2)
    assert next(iter(text_only.train_loader_x))["img"].dim() == 2


def test_bf16_trains_fp32_prompts(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "MaPLe", *DEPTH, "TRAINER.MAPLE.PREC", "bf16", "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    assert trainer.model.clip_model.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 and p.grad is not None for p in trainer.model.parameters())
