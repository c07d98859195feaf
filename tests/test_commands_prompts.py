"""The commands for prompt files: inspect, pack, unpack, predict, export."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import python
from PIL import Image
from torch import nn

from qprompt.__main__ import main
from qprompt.backbones import backbone_hash
from qprompt.errors import UserError
from qprompt.export.onnx_model import exporter_is_current
from qprompt.prompt_files.classifier import load_classifier, read_images
from qprompt.prompt_files.inspection import inspect
from qprompt.prompt_files.packing import load, save, unpack
from qprompt.prompted_clip import (
    ConditionalCLIP,
    PromptedCLIP,
    initial_context,
    prompt_layout,
)
from qprompt.prompts.independent import IndependentlyPromptedCLIP, IndependentPrompts
from qprompt.quantization.api import quantize_
from qprompt.quantization.state_dicts import plain_state_dict

CLASSES = ["cat", "small dog", "hot-air balloon"]


class CoOpLearner(nn.Module):
    def __init__(self, context):
        super().__init__()
        self.ctx = nn.Parameter(context)

    def forward(self):
        from qprompt.prompted_clip import Prompts

        return Prompts(text=self.ctx)


def coop_model(clip_model, position="end", n=4, words="a photo of a"):
    context = initial_context(clip_model, n, words)
    layout = prompt_layout(clip_model, CLASSES, words, n, position)
    model = PromptedCLIP(clip_model, layout, CoOpLearner(context + 0.01 * torch.randn_like(context)))
    quantize_(model, names="prompt_learner.ctx")
    return model.eval()


def maple_model(clip_model):
    from qprompt.prompts.maple import MultiModalPromptLearner

    learner = MultiModalPromptLearner(initial_context(clip_model, 2, "a photo of a"), 3, 128)
    model = PromptedCLIP(clip_model, prompt_layout(clip_model, CLASSES, "a photo of a", 2), learner)
    weights = ["prompt_learner.ctx", "*proj.weight", "*compound_prompts_text.*", "*projections.*.weight"]
    quantize_(model, names=weights, bits=4)
    quantize_(model, names="*bias", bits=16)
    return model.eval()


def cocoop_model(clip_model):
    from qprompt.prompts.cocoop import ConditionalPromptLearner

    learner = ConditionalPromptLearner(initial_context(clip_model, 4, "a photo of a"), clip_model.visual.output_dim)
    model = ConditionalCLIP(clip_model, prompt_layout(clip_model, CLASSES, "a photo of a", 4), learner)
    quantize_(model, names=["prompt_learner.ctx", "*meta_net.*.weight"], bits=4)
    quantize_(model, names="*bias", bits=16)
    return model.eval()


def ivlp_model(clip_model, text_depth=3, image_depth=2):
    context = initial_context(clip_model, 2, "a photo of a")
    layout = prompt_layout(clip_model, CLASSES, "a photo of a", 2)
    learner = IndependentPrompts(context, text_depth, (3, 128), image_depth)
    model = IndependentlyPromptedCLIP(clip_model, layout, learner)
    quantize_(model, names=["prompt_learner.ctx", "*VPT*"], bits=4)
    return model.eval()


def vpt_model(clip_model):
    layout = prompt_layout(clip_model, CLASSES, "a photo of a", 0)
    model = IndependentlyPromptedCLIP(clip_model, layout, IndependentPrompts(None, 0, (3, 128), 3))
    quantize_(model, names="*VPT*", bits=4)
    return model.eval()


def about(clip_model, **more):
    return {"backbone": "ViT-B/16", "backbone_sha256": backbone_hash(clip_model), "words": "a photo of a"} | more


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for name, size in (("a.png", (50, 40)), ("b.jpg", (33, 90))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


@pytest.fixture
def prompt(clip_model, tmp_path):
    path = tmp_path / "p.qprompt"
    save(coop_model(clip_model), path, method="QCoOp", **about(clip_model))
    return str(path)


def test_inspect_prints_the_content(prompt, capsys):
    assert main(["inspect", prompt]) == 0
    out = capsys.readouterr().out
    for words in ("QCoOp", "ViT-B/16", "a photo of a", "prompt_learner.ctx", "4 x 64", "36", "14.2 times smaller"):
        assert words in out
    assert main(["inspect", prompt, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["payload_bytes"] == 36


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_stored_coop_prompt_gives_the_logits_of_the_model(clip_model, clip_file, tmp_path, images, position):
    model = coop_model(clip_model, position)
    save(model, tmp_path / "p", **about(clip_model, class_position=position))
    stored = load_classifier(tmp_path / "p", CLASSES, backbone_path=str(clip_file))
    batch = read_images(images, clip_model)
    with torch.no_grad():
        assert torch.equal(stored(batch), model(batch))


@pytest.mark.parametrize("make", [maple_model, cocoop_model, ivlp_model, vpt_model])
def test_stored_prompts_give_the_logits_of_the_model(clip_model, clip_file, tmp_path, images, make):
    model = make(clip_model)
    save(model, tmp_path / "p", **about(clip_model))
    stored = load_classifier(tmp_path / "p", CLASSES, backbone_path=str(clip_file))
    batch = read_images(images, clip_model)
    with torch.no_grad():
        assert torch.equal(stored(batch), model(batch))


def test_projected_prompts_are_smaller_and_give_the_same_logits(clip_model, clip_file, tmp_path, images, capsys):
    model = maple_model(clip_model)
    save(model, tmp_path / "p", method="QMaPLe", **about(clip_model))
    out = tmp_path / "projected"
    assert main(["export", str(tmp_path / "p"), "--projected", str(out)]) == 0
    assert "times smaller" in capsys.readouterr().out
    held = inspect(out)
    assert (held["method"], held["projected_from"], held["words"]) == ("QIVLP", "QMaPLe", "a photo of a")
    # Three layers: 2 text vectors of 64 by 4 bits and 16 levels each; 2 image vectors of 128 in full precision.
    assert (held["payload_bytes"], held["full_bytes"], held["half_bytes"]) == (3 * (64 + 32), 3 * 2 * 128 * 4, 0)
    batch = read_images(images, clip_model)
    with torch.no_grad():
        expected = model(batch)
        assert torch.equal(load_classifier(out, CLASSES, backbone_path=str(clip_file))(batch), expected)
        for bits, tolerance in (("16", 0.02), ("8", 0.3)):
            small = tmp_path / bits
            assert main(["export", str(tmp_path / "p"), "--projected", str(small), "--bits", bits]) == 0
            logits = load_classifier(small, CLASSES, backbone_path=str(clip_file))(batch)
            assert 0 < (logits - expected).abs().max() < tolerance
    # Unpacked, they are a checkpoint that the IVLP trainer loads.
    state = unpack(out, "ivlp")
    independent = ivlp_model(clip_model, image_depth=3)
    assert set(plain_state_dict(independent)) == set(state)
    with pytest.raises(UserError, match="Use --as ivlp"):
        unpack(out, "maple")
    with pytest.raises(UserError, match="qprompt export --projected"):
        unpack(tmp_path / "p", "ivlp")
    assert main(["export", str(out), "--projected", str(tmp_path / "x")]) == 2
    assert "no prompts of MaPLe" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "p"), "--projected", str(tmp_path / "x"), "--bits", "9"]) == 2
    assert "bits=9" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_predict_prints_probabilities(prompt, clip_file, images, capsys, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    model = ["--backbone-path", str(clip_file)]
    assert main(["predict", prompt, *images, "--classes", str(names), "--json", *model]) == 0
    from_file = json.loads(capsys.readouterr().out)
    assert main(["predict", prompt, *images, "--classes", ", ".join(CLASSES), "--json", "--batch", "1", *model]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in result] == images
    for entry, other in zip(result, from_file, strict=True):
        assert [c["name"] for c in entry["classes"]] == [c["name"] for c in other["classes"]]
        probabilities = [c["probability"] for c in entry["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {c["name"] for c in entry["classes"]} == set(CLASSES)
    assert main(["predict", prompt, images[0], "--classes", "cat,dog,cow", "--top", "1", *model]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == images[0] and len(out) == 2 and "%" in out[1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--classes", "cat,cat"], "cat twice"),
        (["--classes", " , "], "no name"),
        (["--classes", "cat,dog", "--top", "0"], "--top is 0"),
        (["--classes", "cat,dog", "--backbone", "ViT-B/61"], "ViT-B/61"),
    ],
)
def test_predict_reports_mistakes(prompt, clip_file, images, capsys, more, words):
    with_backbone = [] if "--backbone" in more else ["--backbone-path", str(clip_file)]
    assert main(["predict", prompt, images[0], *more, *with_backbone]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def named_prompt(clip_model, tmp_path):
    """A prompt file with class names."""
    path = tmp_path / "named.qprompt"
    save(coop_model(clip_model), path, method="QCoOp", classnames=CLASSES, **about(clip_model))
    return str(path)


@pytest.fixture
def folder(images, tmp_path):
    """Three images in folders, one of which has an odd name, among files that are none."""
    inner = tmp_path / "pictures" / "inner, 2"
    inner.mkdir(parents=True)
    for place in (tmp_path / "pictures/b.png", inner / 'a "é".PNG', inner / os.fsdecode(b"z\xff.png")):
        shutil.copy(images[0], place)
    (inner / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (inner / ".hidden.png").write_bytes(b"")
    (inner / "notes.txt").write_text("no picture")
    (tmp_path / "pictures/loop").symlink_to(tmp_path / "pictures")
    return tmp_path / "pictures"


def ranked(clf, path, top):
    return [(name, pytest.approx(p, abs=1e-6)) for name, p in clf.predict(path, top=top)[0].ranking]


@pytest.mark.parametrize("batch", ["1", "3"])
def test_predict_streams_folders(named_prompt, clip_file, folder, capfd, batch):
    clf = load_classifier(named_prompt, backbone_path=clip_file)
    good = [folder / "b.png", *sorted(p for p in (folder / "inner, 2").iterdir() if p.suffix.lower() == ".png")]
    good = [path for path in good if not path.name.startswith(".")]
    command = ["predict", named_prompt, str(folder), "--backbone-path", str(clip_file), "--batch", batch, "--top", "2"]

    def run(*more):
        assert main([*command, *more]) == 1  # for the broken one
        error = capfd.readouterr()
        assert "broken.jpg" in error.err and "1 of 4 images could not be read" in error.err
        assert "not read: files that are not pictures: 1 (" in error.err and ".txt)" in error.err
        return error.out

    found = [json.loads(line) for line in run("--jsonl").splitlines()]
    assert [entry["image"] for entry in found] == list(map(str, good))
    for entry, path in zip(found, good, strict=True):
        assert [(c["name"], c["probability"]) for c in entry["classes"]] == ranked(clf, path, 2)
    assert json.loads(run("--json")) == found
    assert run("--json") == json.dumps(found, indent=2, ensure_ascii=False).replace("\udcff", "\\udcff") + "\n"
    rows = list(csv.reader(io.StringIO(run("--csv"))))
    assert rows[0] == ["image", "label_1", "probability_1", "label_2", "probability_2"]
    assert [row[0].encode(errors="surrogateescape") for row in rows[1:]] == [os.fsencode(path) for path in good]
    for row, path in zip(rows[1:], good, strict=True):
        assert [(row[1], float(row[2])), (row[3], float(row[4]))] == ranked(clf, path, 2)
    assert run().splitlines()[::3] == list(map(str, good))


def test_predict_without_a_readable_image(named_prompt, clip_file, folder, capfd):
    command = ["predict", named_prompt, str(folder / "inner, 2/broken.jpg"), "--backbone-path", str(clip_file)]
    for kind, out in (("--json", "[]\n"), ("--jsonl", "")):
        assert main([*command, kind]) == 1
        assert capfd.readouterr().out == out


def in_shell(script, *arguments):
    command = ["bash", "-o", "pipefail", "-c", script, python(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_predict_into_a_pipe_that_closes_is_no_error(named_prompt, clip_file, folder):
    done = in_shell(
        '"$0" -m qprompt predict "$1" "$2" "$2" "$2" --backbone-path "$3" --batch 1 --jsonl | head -n 1',
        *(named_prompt, folder / "b.png", clip_file),
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1


def test_predict_checks_before_the_long_imports(named_prompt, images, tmp_path):
    """Neither torch nor CLIP is imported for a mistake in the arguments."""
    program = (
        "import sys\nfrom qprompt.__main__ import main\ncode = main(sys.argv[1:])\n"
        "assert not {'torch', 'torchvision', 'clip', 'scipy'} & set(sys.modules)\nsys.exit(code)"
    )
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([named_prompt, "missing.jpg"], "missing.jpg does not exist"),
        ([named_prompt, "1.jpg", "2.jpg", "3.jpg", "4.jpg"], "1.jpg, 2.jpg, 3.jpg and 1 more do not exist"),
        ([named_prompt, str(tmp_path / "empty")], "has no images"),
        (["nowhere.qprompt", images[0]], "no prompt file 'nowhere.qprompt'"),
        ([named_prompt, images[0], "--classes", "names.txt"], "no file 'names.txt'"),
        ([named_prompt, images[0], "--top", "0"], "--top is 0"),
        ([named_prompt, images[0], "--backbone-path", "w.pt"], "no file of backbone weights 'w.pt'"),
    ):
        done = subprocess.run([sys.executable, "-c", program, "predict", *arguments], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr and done.stderr.count("\n") == 1


def test_other_backbone_is_refused_without_the_flag(clip_model, clip_file, tmp_path, images, capsys):
    save(coop_model(clip_model), tmp_path / "p", **about(clip_model, backbone_sha256="0" * 64))
    arguments = ["predict", str(tmp_path / "p"), images[0], "--classes", "a,b", "--backbone-path", str(clip_file)]
    assert main(arguments) == 2
    assert "learned with other weights of ViT-B/16" in capsys.readouterr().err
    assert main([*arguments, "--other-backbone"]) == 0


def test_prompts_that_do_not_fit_are_refused(clip_model, clip_file, tmp_path, images, capsys):
    for shape, words in (((4, 512), "width 512"), ((3, 4, 64), "class-specific")):
        learner = nn.Module()
        learner.ctx = nn.Parameter(torch.randn(shape))
        quantize_(learner, names="ctx")
        save(learner, tmp_path / "p")
        arguments = ["predict", str(tmp_path / "p"), images[0], "--classes", "a,b"]
        assert main([*arguments, "--backbone-path", str(clip_file)]) == 2
        assert words in capsys.readouterr().err
        assert main(arguments) == 2
        assert "--backbone" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "p"), str(tmp_path), "--classes", "a,b"]) == 2


def test_pack_and_unpack_a_checkpoint_of_coop(tmp_path, capsys):
    state = {"ctx": torch.randn(4, 64), "token_prefix": torch.randn(5, 1, 64), "token_suffix": torch.randn(5, 72, 64)}
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    torch.save({"state_dict": state, "epoch": 50, "optimizer": {}}, folder / "model.pth.tar-50")
    torch.save({"state_dict": {"ctx": torch.zeros(4, 64)}, "epoch": 5}, folder / "model.pth.tar-5")
    assert main(["pack", str(folder), "--backbone", "ViT-B/16", "--words", "a photo of a"]) == 0
    assert "QCoOp, 36 bytes quantized" in capsys.readouterr().out
    packed = load(folder / "prompt.qprompt")["ctx"]
    assert (
        packed.unique().numel() == 2
        and torch.corrcoef(torch.stack([packed.flatten(), state["ctx"].flatten()]))[0, 1] > 0.7
    )
    out = tmp_path / "out"
    unpacking = ["unpack", str(folder / "prompt.qprompt"), "--as", "coop", "--output-dir", str(out), "--epoch", "50"]
    assert main(unpacking) == 0
    checkpoint = torch.load(out / "prompt_learner" / "model.pth.tar-50", weights_only=True)
    assert checkpoint["epoch"] == 50 and torch.equal(checkpoint["state_dict"]["ctx"], packed)
    assert main(unpacking) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["pack", str(folder / "model.pth.tar-50"), "--bits", "4", "--out", str(tmp_path / "four")]) == 0
    assert load(tmp_path / "four")["ctx"].unique().numel() == 16


def test_pack_accepts_a_bare_state_dict_and_reports_mistakes(tmp_path, capsys):
    torch.save({"ctx": torch.randn(4, 64)}, tmp_path / "bare.pt")
    assert main(["pack", str(tmp_path / "bare.pt"), "--out", str(tmp_path / "p")]) == 0
    torch.save({"weight": torch.randn(4, 64)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    for arguments, words in (
        (["other.pt"], "no prompts of CoCoOp, CoOp, IVLP, MaPLe, VPT"),
        (["list.pt"], "does not contain a state dict"),
        (["text.pt"], "not a readable checkpoint"),
        (["nowhere.pt"], "no checkpoint"),
        (["."], "no model.pth.tar-EPOCH"),
        (["bare.pt", "--bits", "17"], "bits=17"),
        (["bare.pt", "--method", "kmean"], "Did you mean 'kmeans'"),
    ):
        assert main(["pack", str(tmp_path / arguments[0]), *arguments[1:]]) == 2
        assert words in capsys.readouterr().err


def test_export_features(prompt, clip_model, clip_file, tmp_path, images, capsys):
    out = tmp_path / "f.npz"
    arguments = ["export", prompt, "--classes", ",".join(CLASSES), "--backbone-path", str(clip_file)]
    assert main([*arguments, "--features", str(out)]) == 0
    with np.load(out) as file:
        features, scale, classes = file["text_features"], file["logit_scale"], file["classes"].tolist()
    assert classes == CLASSES and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    batch = read_images(images, clip_model)
    with torch.no_grad():
        image = clip_model.encode_image(batch)
        logits = float(scale) * (image / image.norm(dim=-1, keepdim=True)) @ torch.from_numpy(features).T
        expected = load_classifier(prompt, CLASSES, backbone_path=str(clip_file))(batch)
    assert torch.allclose(logits, expected, atol=1e-3)
    assert main(arguments) == 2
    assert "nothing to write" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # warnings of the exporter
@pytest.mark.parametrize(
    "make",
    # test_export_onnx.py exports a QCoOp prompt with the same command, and compares it with PyTorch
    [pytest.param(coop_model, marks=pytest.mark.slow), maple_model],
)
def test_export_onnx(clip_model, clip_file, tmp_path, make, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if not exporter_is_current():
        pytest.skip("this PyTorch has an older ONNX exporter")
    save(make(clip_model), tmp_path / "p", **about(clip_model))
    out = tmp_path / "m.onnx"
    arguments = ["export", str(tmp_path / "p"), "--classes", ",".join(CLASSES), "--backbone-path", str(clip_file)]
    assert main([*arguments, "--onnx", str(out)]) == 0
    session = onnxruntime.InferenceSession(str(out))
    batch = read_images(images * 2, clip_model)
    (got,) = session.run(None, {"image": batch.numpy()})
    with torch.no_grad():
        expected = load_classifier(tmp_path / "p", CLASSES, backbone_path=str(clip_file))(batch).softmax(-1)
    assert np.allclose(got, expected, atol=1e-4)
