"""Weights in the forms in which others save them: equal features, or a refusal that names what they are."""

import io
import json
import subprocess
import zipfile

import pytest
import torch
import upstream
from safetensors.torch import save_file

from qprompt.backbones import Identity, check_backbone, import_clip, load_clip
from qprompt.backbones.convert import Variant
from qprompt.backbones.files import read_clip
from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import TEST_SHAPE, ClipShape, open_clip_config, random_state_dict
from qprompt.backbones.weights import is_openai_archive
from qprompt.errors import UserError

PROMPTS = ["a photo of a cat.", "two dogs in front of a red house"]


def same_features(model, encode_image, encode_text):
    image, tokens = torch.randn(2, 3, 32, 32), import_clip().tokenize(PROMPTS)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(image), encode_image(image), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.encode_text(tokens), encode_text(tokens), atol=1e-5, rtol=1e-4)


# wrapped and prefixed

CLASSES = "classifier.weight"
FORMS = {
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}},
    "deep": lambda state: {"checkpoint": {"model": state}},
    "Lightning": lambda state: {
        "state_dict": {**{f"model.{name}": value for name, value in state.items()}, CLASSES: torch.zeros(2)},
        "pytorch-lightning_version": "2.0",
    },
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "compiled branches": lambda state: {n.replace("visual.", "visual._orig_mod.", 1): v for n, v in state.items()},
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "all of them": lambda state: {"state_dict": {f"module._orig_mod.model.clip.{n}": v for n, v in state.items()}},
    "beside an average": lambda state: {"state_dict": state, "ema": {n: v + 1 for n, v in state.items() if v.ndim}},
    "separate text branch": lambda state: {
        name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": v for name, v in state.items()
    },
}


@pytest.fixture
def folder(tmp_path):
    """A folder with the config of the tiny CLIP."""
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(TEST_SHAPE)), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_wrapped_weights_are_the_weights(folder, clip_weights, form):
    torch.save(FORMS[form](clip_weights), folder / "w.pt")
    found, _ = read_clip(folder / "w.pt")
    assert found.keys() == clip_weights.keys()
    assert all(torch.equal(value, clip_weights[name]) for name, value in found.items())


def test_what_is_not_one_clip_model_is_refused_by_what_it_is(folder, clip_weights):
    two = {f"{side}.{name}": value for side in ("student", "teacher") for name, value in clip_weights.items()}
    cases = {
        "contains several text branches .student.*teacher": two,
        "contains several state dicts .a, b.: save one": {"a": clip_weights, "b": clip_weights},
        "is the prompts of a trainer.*MODEL.INIT_WEIGHTS": {"ctx": torch.zeros(4, 64), "token_prefix": torch.zeros(1)},
        "an image encoder without a text branch": {n: v for n, v in clip_weights.items() if n.startswith("visual.")},
        "an image classifier": {"cls_token": torch.zeros(1), "head.weight": torch.zeros(2)},
        "image encoder of timm": {**clip_weights, "visual.trunk.blocks.0.norm1.weight": torch.zeros(2)},
        "a text encoder like BERT": {"text.transformer.embeddings.word_embeddings.weight": torch.zeros(2)},
        "an adapter of PEFT. Merge it": {"base_model.model.visual.proj.lora_A.weight": torch.zeros(2)},
        "a CoCa model": {**clip_weights, "text_decoder.resblocks.0.ln_1.weight": torch.zeros(2)},
        "differ only in 'module.'": {**clip_weights, "module.ln_final.weight": torch.zeros(2)},
    }
    for message, content in cases.items():
        torch.save(content, folder / "w.pt")
        with pytest.raises(UserError, match=message) as error:
            load_clip("ViT-B/16", folder / "w.pt")
        assert "\n" not in str(error.value)


def test_a_whole_model_object_is_refused_with_what_to_type(folder):
    torch.save(torch.nn.Linear(2, 2), folder / "w.pt")
    with pytest.raises(UserError, match=r"torch.save\(model.state_dict\(\), FILE\)"):
        load_clip("ViT-B/16", folder / "w.pt")


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x")
    return file.getvalue()


FILES = {
    "a pointer of Git LFS: type git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 6\n",
    "a web page: download it again": b"<!DOCTYPE html><html>",
    "a zip archive: unpack it": zipped("clip/model.bin"),
    "arrays of NumPy: save the state dict": zipped("visual.proj.npy"),
    "a file of TensorFlow or Keras: save": b"\x89HDF\r\n\x1a\n",
    "a GGUF file": b"GGUF\3\0\0\0",
    "an ONNX model": b"\x08\x07\x12\x07pytorch",
    "zero bytes only: download it again": bytes(100),
}


@pytest.mark.parametrize("words", FILES)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_other_files_are_named_with_what_to_do(tmp_path, words, suffix):
    (tmp_path / f"w.{suffix}").write_bytes(FILES[words])
    with pytest.raises(UserError, match=f"can't be read as CLIP weights: it is {words}"):
        read_clip(tmp_path / f"w.{suffix}")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: {n: (v * 50).to(torch.int8) for n, v in state.items()}, "has int8 values in .*it is quantized"),
        (
            lambda state: state | {"visual.proj": state["visual.proj"] * torch.nan},
            "NaN or infinite values in visual",
        ),
        (lambda state: state | {"token_embedding.weight": torch.zeros(9, 64)}, "it has 9 tokens, CLIP's tokenizer has"),
    ],
)
def test_values_that_cannot_be_used_are_refused(folder, clip_weights, change, words):
    torch.save(change(clip_weights), folder / "w.pt")
    with pytest.raises(UserError, match=words):
        read_clip(folder / "w.pt")


# heads and activation


@pytest.mark.parametrize("width, head_width", [(320, 80), (160, 80), (128, 32)])
def test_unknown_heads_are_asked_for(tmp_path, width, head_width):
    shape = ClipShape(48, 32, 1, width, 8, 64, 2, 1)
    torch.save(random_state_dict(shape), tmp_path / "w.pt")
    with pytest.raises(UserError, match=f"how many attention heads.*width {width} and 1 layers.*open_clip_config.json"):
        load_clip("ViT-B/16", tmp_path / "w.pt")
    config = open_clip_config(shape)
    config["model_cfg"]["vision_cfg"]["head_width"] = head_width
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = load_clip("ViT-B/16", tmp_path / "w.pt")  # what the message says
    assert model.visual.transformer.resblocks[0].attn.num_heads == width // head_width
    assert model.transformer.resblocks[0].attn.num_heads == 2


def names_of(image, text):
    """A state dict with the sizes (width, layers) of two branches, and hardly more."""
    branches = {"visual.transformer": image, "transformer": text}
    state = {
        f"{place}.resblocks.{i}.ln_1.weight": torch.zeros(width)
        for place, (width, layers) in branches.items()
        for i in range(layers)
    }
    return {**state, "token_embedding.weight": torch.zeros(49408), "text_projection": torch.ones(1)}


def test_the_error_names_the_models_of_open_clip_with_these_sizes(tmp_path):
    pytest.importorskip("open_clip", reason="open_clip_torch is not installed", exc_type=ImportError)
    torch.save(names_of((1280, 32), (1024, 24)), tmp_path / "w.pt")
    with pytest.raises(UserError, match="type --backbone open_clip:ViT-H-14"):
        load_clip("ViT-B/16", tmp_path / "w.pt")


@pytest.mark.parametrize("image, text", [((768, 12), (512, 12)), ((1024, 24), (768, 12)), ((0, 0), (640, 12))])
@pytest.mark.parametrize("gelu", [False, True])
def test_an_unknown_activation_is_asked_for(tmp_path, image, text, gelu):
    folder = tmp_path / "my weights"
    folder.mkdir()
    torch.save(names_of(image, text), folder / "w.pt")
    with pytest.raises(UserError, match="does not say its activation.*--backbone open_clip:") as error:
        read_clip(folder / "w.pt")
    command = str(error.value).partition("type: ")[2].partition(" . ")[0]
    assert '"quick_gelu": true' in command and '"quick_gelu": false' in str(error.value)
    subprocess.run(command.replace("true", "false") if gelu else command, shell=True, check=True)  # what it says
    _, variant = read_clip(folder / "w.pt")
    assert variant.text_gelu is gelu and variant.text_heads == text[0] // 64
    assert variant.image_heads == image[0] // 64


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_an_archive_whose_code_calls_gelu_is_not_openais(tmp_path):
    state = names_of((768, 1), (512, 1))
    for activation in (import_clip().model.QuickGELU(), torch.nn.GELU()):
        module = upstream._Holder(state)
        module.activation = torch.jit.trace(activation, torch.zeros(2))
        torch.jit.script(module).save(str(tmp_path / "w.pt"))
        assert is_openai_archive(tmp_path / "w.pt") is not isinstance(activation, torch.nn.GELU)
    with pytest.raises(UserError, match="does not say how many attention heads"):
        read_clip(tmp_path / "w.pt")


# identity


def test_what_changes_features_changes_the_identity(clip_weights, caplog):
    openai = Identity.of(build_clip(clip_weights, "test"))
    variants = [
        Variant(),
        Variant(image_heads=2, text_heads=1),  # what OpenAI's code computes for these weights
        Variant(image_heads=4),
        Variant(text_heads=4),
        Variant(image_gelu=True),
        Variant(text_gelu=True),
        Variant(image_eps=1e-6),
        Variant(text_eps=1e-6),
        Variant(ln_pre=False),
    ]
    found = [Identity.of(build_clip(clip_weights, "test", variant)) for variant in variants]
    assert [one.sha256 for one in found[:2]] == [openai.weights] * 2
    assert len({one.sha256 for one in found}) == len(variants) - 1
    for one in found[2:-1]:
        assert one.weights == openai.weights and one.unlike_openai
        assert not openai.accepts(one.sha256) and one.accepts(one.sha256)
        caplog.clear()
        assert one.accepts(openai.weights)  # a file of an early version, or one of another model: nobody knows
        assert f"learned with {one.unlike_openai[0]} is not known" in caplog.text


def test_resnets_compute_as_openais():
    shape = ClipShape(64, 64, (1, 1, 1, 1), 8, None, 64, 1, 1)
    assert Identity.of(build_clip(random_state_dict(shape), "test")).unlike_openai == ()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vision_cfg": {"width": 64}}, "does not belong to the weights.*width 64 and 4 layers, theirs 128 and 4"),
        ({"text_cfg": {"layers": 7}}, "does not belong to the weights.*width 64 and 7 layers, theirs 64 and 3"),
        ({"text_cfg": {"heads": 7}}, "head_width 64 and text_cfg.heads 7 do not divide the widths 128 and 64"),
        ({"text_cfg": {"heads": None}}, "heads None do not divide"),
        ({"vision_cfg": {"head_width": 0}}, "head_width 0 and"),
        ({"vision_cfg": {"head_width": "64"}}, "head_width '64' and"),
        ({"text_cfg": {"no_causal_mask": True}}, "not CLIP's .text_cfg.no_causal_mask"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "not CLIP's .text_cfg.hf_model_name"),
        ({"vision_cfg": {"timm_model_name": "convnext"}}, "not CLIP's .vision_cfg.timm_model_name"),
        ({"vision_cfg": {"pool_type": "avg"}}, "not CLIP's .vision_cfg.pool_type"),
        ({"init_logit_bias": -10}, "not CLIP's .init_logit_bias"),
    ],
)
def test_configs_of_other_models_are_refused(folder, clip_weights, change, message):
    config = open_clip_config(TEST_SHAPE)
    for key, value in change.items():
        config["model_cfg"][key] = config["model_cfg"][key] | value if isinstance(value, dict) else value
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(clip_weights, folder / "w.pt")
    with pytest.raises(UserError, match=message):
        load_clip("ViT-B/16", folder / "w.pt")


@pytest.mark.parametrize("text", ["[1]", "{", '{"model_cfg": 3}', "{}"])
def test_damaged_configs_are_refused(folder, clip_weights, text):
    (folder / "open_clip_config.json").write_text(text)
    torch.save(clip_weights, folder / "w.pt")
    with pytest.raises(UserError, match="open_clip_config.json"):
        load_clip("ViT-B/16", folder / "w.pt")


# open_clip

VISION = {"image_size": 32, "layers": 2, "width": 160, "patch_size": 8, "head_width": 80}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
OPEN_CLIP = {
    "80-wide heads": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT},
    "QuickGELU": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "ResNet": {"embed_dim": 32, "vision_cfg": RESNET, "text_cfg": TEXT},
    "separate text": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True},
}


@pytest.mark.parametrize("case", OPEN_CLIP)
@pytest.mark.parametrize("form", ["folder", "file"])
def test_open_clip_files_with_their_config(tmp_path, monkeypatch, case, form):
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed", exc_type=ImportError)
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "case", OPEN_CLIP[case])
    torch.manual_seed(0)
    original = open_clip.create_model("case").eval()
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP[case], "preprocess_cfg": {}}))
    save_file(original.state_dict(), tmp_path / "open_clip_model.safetensors")
    model = load_clip("ViT-B/16", tmp_path if form == "folder" else tmp_path / "open_clip_model.safetensors")
    size = model.visual.input_resolution
    image, tokens = torch.randn(2, 3, size, size), import_clip().tokenize(PROMPTS)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(image), original.encode_image(image), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.encode_text(tokens), original.encode_text(tokens), atol=1e-5, rtol=1e-4)


# Hugging Face


def hugging_face(folder, safe=True, **changes):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 3}
    vision |= {"image_size": 32, "patch_size": 8}
    for part in (text, vision):
        part |= changes
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():  # biases and norms are neutral at the start
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def pooled(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


@pytest.mark.parametrize(
    "form, changes",
    [
        ("folder", {}),
        ("model.safetensors", {"hidden_act": "gelu"}),
        ("folder", {"layer_norm_eps": 1e-2}),
        ("pytorch_model.bin", {"hidden_act": "gelu", "eos_token_id": 2}),
    ],
)
def test_hugging_face_clip_computes_the_same(tmp_path, form, changes):
    original = hugging_face(tmp_path, safe=form != "pytorch_model.bin", **changes)
    path = tmp_path if form == "folder" else tmp_path / form
    check_backbone("ViT-B/16", path)
    model = load_clip("ViT-B/16", path)
    same_features(
        model,
        lambda image: pooled(original.get_image_features(pixel_values=image)),
        lambda tokens: pooled(original.get_text_features(input_ids=tokens, attention_mask=torch.ones_like(tokens))),
    )
    assert model.logit_scale == original.logit_scale


def test_hugging_face_files_that_do_not_say_enough(tmp_path):
    hugging_face(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    cases = {
        "put its config.json beside it": None,
        "model_type 'siglip'": {"model_type": "siglip"},
        "hidden_act 'relu'": {"text_config": config["text_config"] | {"hidden_act": "relu"}},
        "does not belong to the weights": {"vision_config": config["vision_config"] | {"num_hidden_layers": 9}},
        "not those of CLIP's tokenizer": {"text_config": config["text_config"] | {"eos_token_id": 5}},
    }
    for message, change in cases.items():
        (tmp_path / "config.json").unlink(missing_ok=True)
        if change is not None:
            (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            load_clip("ViT-B/16", tmp_path)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("form", ["folder", "index"])
def test_shards_are_read(tmp_path, clip_weights, safe, form):
    folder = tmp_path / "sharded"
    folder.mkdir()
    name = "model.safetensors" if safe else "pytorch_model.bin"
    names = sorted(clip_weights)
    places = {}
    for number in range(3):
        part = {tensor: clip_weights[tensor].clone() for tensor in names[number::3]}
        file = name.replace(".", f"-0000{number + 1}-of-00003.")
        (save_file if safe else torch.save)(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(TEST_SHAPE)))
    path = folder if form == "folder" else index
    check_backbone("ViT-B/16", path)
    found, _ = read_clip(path)
    assert found.keys() == clip_weights.keys()
    assert all(torch.equal(value, clip_weights[name]) for name, value in found.items())
    cases = {
        "has no tensor more, which": places | {"more": places[names[0]]},
        r"names the file '\.\./x', expected": places | {"more": "../x"},
        "names 4 files with weights, of which 1 do not exist: lost.bin. Put them": places | {"more": "lost.bin"},
        "is not an index of weights": None,
    }
    for message, weight_map in cases.items():
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=message):
            load_clip("ViT-B/16", path)


def test_one_shard_alone_is_refused_with_what_to_type(tmp_path, clip_weights):
    shard = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"text_model.embeddings.token_embedding.weight": clip_weights["token_embedding.weight"]}, shard)
    with pytest.raises(UserError, match=f"is one of several files with weights: type the folder .*{tmp_path.name}"):
        load_clip("ViT-B/16", shard)


def test_folders_without_weights_are_refused_early(tmp_path):
    with pytest.raises(UserError, match="it has none of model.safetensors, pytorch_model.bin"):
        check_backbone("ViT-B/16", tmp_path)
