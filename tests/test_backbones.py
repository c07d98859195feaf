"""Backbones by name and from files, and errors for invalid files."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from commands import python

from qprompt.backbones import available_backbones, backbone_hash, import_clip, load_clip
from qprompt.backbones.files import read_clip
from qprompt.backbones.random_weights import (
    SHAPES,
    TEST_SHAPE,
    ClipShape,
    open_clip_config,
    random_state_dict,
    write_clip,
)
from qprompt.backbones.weights import openai_file, sha256
from qprompt.errors import UserError


@pytest.fixture
def config(tmp_path):
    """Put the config of the tiny CLIP into tmp_path, beside the weights that a test writes."""
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps(open_clip_config(TEST_SHAPE)), encoding="utf-8")
    return path


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_import_clip_removes_its_pkg_resources():
    code = (
        "import sys, warnings, importlib.util as u\n"
        "warnings.simplefilter('error', DeprecationWarning)\n"
        "had = u.find_spec('pkg_resources') is not None\n"
        "from qprompt.backbones import import_clip\n"
        "clip = import_clip()\n"
        "assert clip.tokenize('a cat').shape == (1, 77)\n"
        "assert had or 'pkg_resources' not in sys.modules\n"
    )
    subprocess.run([python(), "-c", code], check=True)


def test_other_package_named_clip_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", sys)
    with pytest.raises(UserError, match="not OpenAI's CLIP"):
        import_clip()


def test_sizes_come_from_the_weights(clip_model):
    assert clip_model.visual.input_resolution == 32
    assert clip_model.transformer.width == 64 and clip_model.visual.transformer.width == 128
    assert not clip_model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in clip_model.parameters())


def test_fp32_weights_are_not_rounded(clip_weights, tmp_path, config):
    weights = {name: value.clone() for name, value in clip_weights.items()}
    weights["text_projection"] += 1e-7
    torch.save(weights, tmp_path / "w.pt")
    assert equal(load_clip("any", tmp_path / "w.pt").state_dict(), weights)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module."])
def test_wrapped_state_dicts(clip_weights, tmp_path, config, wrapper):
    if wrapper == "module.":
        torch.save({f"module.{name}": value for name, value in clip_weights.items()}, tmp_path / "w.pt")
    else:
        torch.save({"epoch": 3, wrapper: clip_weights}, tmp_path / "w.pt")
    assert equal(read_clip(tmp_path / "w.pt")[0], clip_weights)


def test_safetensors(clip_weights, tmp_path, config):
    from safetensors.torch import save_file

    save_file(clip_weights, tmp_path / "w.safetensors")
    assert equal(load_clip("any", tmp_path / "w.safetensors").state_dict(), clip_weights)
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="truncated"):
        load_clip("any", tmp_path / "w.safetensors")


class WithSizes(torch.nn.Module):
    """The content of OpenAI's archives: fp16 weights and three numbers."""

    def __init__(self, model):
        super().__init__()
        self.visual, self.transformer, self.ln_final = model.visual, model.transformer, model.ln_final
        self.token_embedding = model.token_embedding
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            setattr(self, name, getattr(model, name))
        self.register_buffer("input_resolution", torch.tensor(32))
        self.register_buffer("context_length", torch.tensor(77))
        self.register_buffer("vocab_size", torch.tensor(49408))

    def forward(self, image):
        return self.visual(image)


def test_torchscript_archive_in_openais_format(clip_file, clip_weights, tmp_path, config):
    clip = import_clip()
    model = load_clip("any", clip_file)
    clip.model.convert_weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive = torch.jit.trace(WithSizes(model), torch.zeros(1, 3, 32, 32).half(), check_trace=False)
        archive.save(str(tmp_path / "w.pt"))
    assert equal(load_clip("any", tmp_path / "w.pt").state_dict(), clip_weights)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:-5000])
    with pytest.raises(UserError, match="truncated"):
        load_clip("any", tmp_path / "cut.pt")


def test_missing_truncated_and_garbage_files(clip_file, tmp_path):
    with pytest.raises(UserError, match="no file"):
        load_clip("any", tmp_path / "nowhere.pt")
    whole = clip_file.read_bytes()
    for name, content in {
        "empty": b"",
        "noise": bytes(range(256)) * 9,
        "half": whole[: len(whole) // 2],
        "tail": whole[:-7],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="truncated"):
            load_clip("any", tmp_path / name)


def test_files_with_other_content(clip_weights, tmp_path, config):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="contains list"):
        load_clip("any", tmp_path / "list.pt")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="it has no 'text_projection'"):
        load_clip("any", tmp_path / "other.pt")
    broken = dict(clip_weights, **{"ln_final.weight": torch.ones(128)})
    torch.save(broken, tmp_path / "broken.pt")
    with pytest.raises(UserError, match="don't make a CLIP model"):
        load_clip("any", tmp_path / "broken.pt")


class Attack:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_code_in_a_file_is_not_executed(tmp_path, capsys):
    torch.save({"text_projection": Attack()}, tmp_path / "w.pt")
    with pytest.raises(UserError):
        load_clip("any", tmp_path / "w.pt")
    assert "ran" not in capsys.readouterr().out


def test_unknown_name_gives_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'ViT-B/16'"):
        load_clip("VIT-B16")
    assert available_backbones()[0] == "tiny" and "ViT-L/14@336px" in available_backbones()


def test_openai_file_is_verified_and_downloaded(tmp_path, monkeypatch, clip_file):
    monkeypatch.setattr("qprompt.backbones.weights.CACHE", tmp_path / "cache")
    good = f"{clip_file.parent.as_uri()}/{sha256(clip_file)}/ViT.pt"
    (clip_file.parent / sha256(clip_file)).mkdir(exist_ok=True)
    (clip_file.parent / sha256(clip_file) / "ViT.pt").write_bytes(clip_file.read_bytes())
    assert sha256(openai_file("ViT", good)) == sha256(clip_file)
    openai_file("ViT", good)  # from the cache

    (tmp_path / "cache" / "ViT.pt").write_bytes(b"other")
    with pytest.raises(UserError, match="is not OpenAI's ViT"):
        openai_file("ViT", good)

    (clip_file.parent / "0").mkdir(exist_ok=True)
    (clip_file.parent / "0" / "RN.pt").write_bytes(b"changed on the way")
    with pytest.raises(UserError, match="nothing was kept"):
        openai_file("RN", f"{clip_file.parent.as_uri()}/0/RN.pt")
    with pytest.raises(UserError, match="could not be downloaded"):
        openai_file("RN", f"{clip_file.parent.as_uri()}/missing/RN.pt")
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == ["ViT.pt"]


def test_hash_depends_only_on_the_weights(clip_model, clip_weights, tmp_path, config):
    weights = dict(clip_weights)
    torch.save(dict(reversed(weights.items())), tmp_path / "same.pt")
    assert backbone_hash(load_clip("any", tmp_path / "same.pt")) == backbone_hash(clip_model)
    weights["ln_final.bias"] = weights["ln_final.bias"] + 1e-3
    torch.save(weights, tmp_path / "other.pt")
    assert backbone_hash(load_clip("any", tmp_path / "other.pt")) != backbone_hash(clip_model)


def test_resnet_sizes(tmp_path):
    shape = ClipShape(32, 64, (1, 1, 1, 1), 16, None, 64, 1, 2, context_length=20, vocab_size=49408)
    model = load_clip("RN50", write_clip(tmp_path / "rn.pt", random_state_dict(shape), shape))
    assert model.visual.input_resolution == 64 and model.context_length == 20
    with torch.no_grad():
        assert model.encode_image(torch.zeros(2, 3, 64, 64)).shape == (2, 32)


def test_random_weights_have_openais_names():
    assert set(SHAPES) <= set(available_backbones())
    with pytest.raises(UserError, match="Did you mean"):
        random_state_dict("ViT-B/17")
