"""CoCoOp: prompts that depend on the image."""

import pytest
import torch
from equality import batches
from toy import toy_trainer

import trainers.cocoop  # noqa: F401
from qprompt.prompted_clip import encode_text, normalize, prompt_layout

CONTEXT = ("TRAINER.COCOOP.N_CTX", 4)


@pytest.mark.bundled_only
def test_train_save_and_load(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "CoCoOp", *CONTEXT, "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    checkpoint = torch.load(tmp_path / "output" / "prompt_learner" / "model.pth.tar-1", weights_only=True)
    layers = [f"meta_net.linear{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")]
    assert list(checkpoint["state_dict"]) == ["ctx", *layers]
    other = toy_trainer(tmp_path, clip_file, "CoCoOp", *CONTEXT, "DATASET.SUBSAMPLE_CLASSES", "new", seed=2)
    other.load_model(str(tmp_path / "output"), epoch=1)
    assert torch.equal(other.model.prompt_learner.meta_net.linear2.weight, checkpoint["state_dict"][layers[2]])


def test_each_image_has_its_own_prompts(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "CoCoOp", *CONTEXT)
    model, image = trainer.model, next(iter(batches()))["img"]
    layout = prompt_layout(model.clip_model, trainer.dm.dataset.classnames, "X X X X", 4)
    with torch.no_grad():
        logits = model(image)
        for row, one in zip(logits, normalize(model.clip_model.encode_image(image)), strict=True):
            context = model.prompt_learner.ctx + model.prompt_learner.meta_net(one)
            text = normalize(encode_text(model.clip_model, layout, context))
            assert torch.allclose(row, model.logit_scale * text @ one, atol=1e-3)


def test_evaluation_in_parts_is_the_same(clip_file, tmp_path, monkeypatch):
    trainer = toy_trainer(tmp_path, clip_file, "CoCoOp", *CONTEXT)
    image = next(iter(batches()))["img"]
    with torch.no_grad():
        whole = trainer.model(image)
        monkeypatch.setattr("qprompt.prompted_clip.conditional.ROWS", 1)
        assert torch.allclose(trainer.model(image), whole, atol=1e-4)
