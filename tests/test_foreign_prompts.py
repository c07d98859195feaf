"""Prompt files and checkpoints of methods that this package does not know: refused by name, unpacked as they were."""

import pytest
import torch

from qprompt.__main__ import main
from qprompt.errors import UserError
from qprompt.prompt_files import packing
from qprompt.prompt_files.classifier import load_classifier
from qprompt.prompt_files.format import StoredTensor, write_prompt_file
from tests import miniature

WIDTH = 64


def context(n=4):
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(0))


def pack(tmp_path, state, capsys, *words):
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "model.pth.tar-1")
    code = main(["pack", str(tmp_path / "model.pth.tar-1"), "--out", str(tmp_path / "p.qprompt"), *words])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"ctx": context(), "ctx_att1": context(2), "token_prefix": context(1)},
            "it holds ctx_att1, which CoOp does not",
        ),
        (
            {
                "prompt_learner.ctx": context(),
                "prompt_learner.proj.weight": context(8),
                "prompt_learner.proj.bias": context(1)[0],
                "adapter.fc.0.weight": context(),
                "image_encoder.ln_pre.weight": context(1)[0],
                "logit_scale": torch.tensor(1.0),
            },
            "it holds adapter.fc.0.weight, which MaPLe does not",
        ),
        ({"ctx": context(), "weight_for_classes": context()}, "it holds weight_for_classes"),
        (
            {
                "ctx": context(),
                **{f"meta_net.linear1.{leaf}": context()[:, :1].flatten() for leaf in ("weight", "bias")},
                **{f"meta_net.linear2.{leaf}": context() for leaf in ("weight", "bias")},
            },
            "names of CoCoOp's, but do not fit together",
        ),
    ],
)
def test_a_tensor_without_a_place_is_refused_by_name(tmp_path, capsys, state, said):
    code, error = pack(tmp_path, state, capsys)
    assert code == 2
    assert said in error
    assert not (tmp_path / "p.qprompt").exists()


def test_checkpoints_of_kin_and_of_whole_models_are_packed(tmp_path, capsys):
    kgcoop = {"ctx": context(), "meta_net.linear1.weight": context(), "token_suffix": context()}
    assert pack(tmp_path, kgcoop, capsys)[0] == 0
    promptsrc = {
        "prompt_learner.ctx": context(),
        "image_encoder.VPT": context(),
        "prompt_learner.ZS_image_encoder.transformer.resblocks.0.attn.in_proj_weight": context(),
        "prompt_learner.ZS_image_encoder.class_embedding": context(1)[0],
        "text_encoder.positional_embedding": context(),
        "text_encoder.transformer.resblocks.1.mlp.c_fc.weight": context(),
        "image_encoder.conv1.weight": context(),
        "image_encoder.layer1.0.bn1.running_mean": context(1)[0],
    }
    assert pack(tmp_path, promptsrc, capsys, "--overwrite")[0] == 0
    assert set(packing.load(tmp_path / "p.qprompt")) == {"ctx", "image_encoder.VPT"}


def test_pack_does_not_overwrite_in_silence(tmp_path, capsys):
    assert pack(tmp_path, {"ctx": context()}, capsys)[0] == 0
    before = (tmp_path / "p.qprompt").read_bytes()
    code, error = pack(tmp_path, {"ctx": 2 * context()}, capsys)
    assert code == 2
    assert "already exists: name another file with --out, or type --overwrite" in error
    assert (tmp_path / "p.qprompt").read_bytes() == before
    assert pack(tmp_path, {"ctx": 2 * context()}, capsys, "--overwrite")[0] == 0


def stored(value):
    return StoredTensor(tuple(value.shape), "float32", 32, values=value)


@pytest.mark.parametrize(
    ("tensors", "method", "said"),
    [
        (("prompt_learner.ctx", "prompt_learner.ctx_att1"), "QCoOp_ATP", "it holds ctx_att1, which CoOp does not have"),
        (("prompt_learner.ctx",), "QCoOp_ATP", "it holds prompts of QCoOp_ATP, which is not one of"),
        (("representation_learner.compound_rep_tokens",), "QMMRL", "no prompts of CoCoOp"),
    ],
)
def test_predictions_of_another_model_are_refused(tmp_path, clip_file, tensors, method, said):
    path = tmp_path / "p.qprompt"
    write_prompt_file(path, {name: stored(context()) for name in tensors}, {"method": method, "backbone": "ViT-B/16"})
    with pytest.raises(UserError, match=said):
        load_classifier(path, ["cat", "dog"], backbone_path=clip_file)
    with pytest.raises(UserError, match=said):
        packing.unpack(path, "coop")


@pytest.mark.parametrize("method", ["QCoOp", "QKgCoOp", "CoOp", ""])
def test_methods_that_are_known_are_read(tmp_path, clip_file, method):
    path = tmp_path / "p.qprompt"
    write_prompt_file(
        path, {"prompt_learner.ctx": stored(context())}, {"method": method or None, "backbone": "ViT-B/16"}
    )
    assert load_classifier(path, ["cat", "dog"], backbone="ViT-B/16", backbone_path=clip_file) is not None


@pytest.mark.parametrize("folder", ["../up", "a/b", "", ".hidden"])
def test_a_file_cannot_name_a_folder_elsewhere(tmp_path, folder):
    path = tmp_path / "p.qprompt"
    write_prompt_file(path, {"ctx": stored(context())}, {"checkpoint": {"ctx": [folder, "ctx"]}})
    with pytest.raises(UserError, match="as a folder"):
        packing.unpack_original(path)


def test_tensors_that_a_trainer_does_not_save_are_left_out(tmp_path):
    path = tmp_path / "p.qprompt"
    tensors = {"m.ctx": stored(context()), "helper.weight": stored(context())}
    write_prompt_file(path, tensors, {"checkpoint": {"m.ctx": ["m", "ctx"], "helper.weight": None}})
    assert {folder: list(state) for folder, state in packing.unpack_original(path).items()} == {"m": ["ctx"]}
    write_prompt_file(path, tensors, {"checkpoint": {"m.ctx": ["m", "ctx"]}})
    with pytest.raises(UserError, match=r"where helper\.weight belongs"):
        packing.unpack_original(path)


def test_a_launched_prompt_is_unpacked_for_its_own_trainer(tmp_path, capsys):
    with miniature.imported():
        trainer = miniature.build(tmp_path, "QTwoModels")
        trainer.train()
        file = tmp_path / "output" / "prompt.qprompt"
        assert main(["unpack", str(file), "--output-dir", str(tmp_path / "unpacked")]) == 0
        assert "--model-dir" in capsys.readouterr().out
        plain = miniature.build(tmp_path, "TwoModels", output="plain")
        for name, model in plain._models.items():
            state = torch.load(tmp_path / "unpacked" / name / "model.pth.tar-1", weights_only=True)["state_dict"]
            assert set(state) == {"prompt_learner.ctx"}
            rest = {k: v for k, v in trainer._models[name].state_dict().items() if "parametrizations" not in k}
            model.load_state_dict({**rest, **state})
        images = torch.rand(5, 3, 8, 8)
        assert torch.equal(plain.model_inference(images), trainer.model_inference(images))
    assert main(["unpack", str(file), "--output-dir", str(tmp_path / "unpacked")]) == 2
    write_prompt_file(tmp_path / "other.qprompt", {"ctx": stored(context())}, {})
    assert main(["unpack", str(tmp_path / "other.qprompt"), "--output-dir", str(tmp_path / "x")]) == 2
    assert "name the trainer, e.g. --as coop" in capsys.readouterr().err
