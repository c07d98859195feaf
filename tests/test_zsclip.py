"""Zero-shot CLIP and what is kept of a frozen image branch."""

import pytest
import torch
from torch.utils.data import DataLoader
from toy import CLASSES, toy_cfg, toy_trainer

import trainers.zsclip  # noqa: F401
from qprompt.data.templates import prompts
from qprompt.prompted_clip import normalize, tokenize
from qprompt.training.feature_loaders import cached_loader, is_deterministic


def test_logits_are_clips_own(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "ZeroshotCLIP")
    image = torch.randn(4, 3, 32, 32)
    words = [f"a photo of a {name.replace('_', ' ')}." for name in CLASSES]
    with torch.no_grad():
        wanted, _ = trainer.model.clip_model(image, tokenize(trainer.model.clip_model, words))
        assert torch.allclose(trainer.model_inference(image), wanted, atol=2e-3)
    assert trainer.get_model_names() == [] and not trainer.learns
    trainer.test()


def test_an_ensemble_is_the_mean_over_templates(clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "ZeroshotCLIP2")
    clip_model, chosen = trainer.model.clip_model, trainer.templates()
    assert len(chosen) > 1
    with torch.no_grad():
        each = [normalize(clip_model.encode_text(tokenize(clip_model, prompts(list(CLASSES), t)))) for t in chosen]
        wanted = normalize(torch.stack(each).mean(0))
        assert torch.allclose(trainer.model.text_features(trainer.model.prompts()), wanted, atol=1e-5)


class Numbers(torch.utils.data.Dataset):
    data_source = "the items"

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 11

    def __getitem__(self, index):
        self.reads += 1
        return {"img": torch.full((3,), float(index)), "label": index % 4, "impath": f"{index}.png"}


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_cached_loader_gives_the_same_batches(drop_last):
    def run(cached):
        torch.manual_seed(3)
        loader = DataLoader(Numbers(), batch_size=4, shuffle=True, drop_last=drop_last)
        given = cached_loader(loader, lambda image: image * 2, torch.device("cpu")) if cached else loader
        assert len(given) == len(loader) and given.dataset.data_source == "the items"
        epochs = [list(given) for _ in range(3)]
        return epochs, torch.rand(2), loader.dataset.reads

    plain, state, _ = run(False)
    kept, kept_state, reads = run(True)
    assert reads == 11 and torch.equal(state, kept_state)
    for batch, other in zip(sum(plain, []), sum(kept, []), strict=True):
        assert torch.equal(batch["img"] * 2, other["img"]) and torch.equal(batch["label"], other["label"])
        assert list(batch["impath"]) == other["impath"]


@pytest.mark.parametrize(
    "options, kept",
    [
        (["INPUT.TRANSFORMS", "['normalize']"], True),
        (["INPUT.TRANSFORMS", "['normalize', 'center_crop']"], True),
        (["INPUT.TRANSFORMS", "['random_flip', 'normalize']"], False),
        (["INPUT.TRANSFORMS", "['something_new']"], False),
        (["DATALOADER.K_TRANSFORMS", 2], False),
        (["DATALOADER.RETURN_IMG0", True], False),
    ],
)
def test_what_counts_as_deterministic(clip_file, tmp_path, options, kept):
    assert is_deterministic(toy_cfg(tmp_path, clip_file, "CoOp", *options)) == kept
