"""The classifier as an ONNX model: it carries what programs need, and is compared with PyTorch first."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import qprompt
from qprompt.__main__ import main
from qprompt.data.preprocessing import Preprocessing
from qprompt.errors import UserError

onnx = pytest.importorskip("onnx", reason="needs pip install -e '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install -e '.[onnx]'")
pytest.importorskip("onnxscript", reason="needs pip install -e '.[onnx]'")
from qprompt.export import onnx_model  # noqa: E402

OLD = Path(__file__).parent / "golden/run_0.1/finished/prompt_learner/prompt.qprompt"
CLASSES = ["red circle", "blue square", "café au lait"]
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # warnings of the exporter
    pytest.mark.skipif(not onnx_model.exporter_is_current(), reason="this PyTorch has an older ONNX exporter"),
]


@pytest.fixture(scope="module")
def clf():
    return qprompt.load_classifier(OLD, CLASSES)


@pytest.fixture(scope="module")
def file(clf, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompt") / "shapes.qprompt"
    clf.save(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    for number in range(5):
        pixels = rng.integers(0, 255, (6, 7 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 60)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def exported(file, pictures, tmp_path_factory):
    """The model that ``qprompt export`` writes, in a folder of its own."""
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert main(["export", str(file), "--onnx", str(out), "--check", str(pictures)]) == 0
    return out


def probabilities(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": batch.numpy()})[0], session.get_modelmeta().custom_metadata_map


def test_model_file_is_enough(clf, exported, pictures):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    preprocess = Preprocessing.from_json(json.loads(about["preprocessing"]))
    assert preprocess == clf.preprocess
    assert json.loads(about["classnames"]) == about["classes"].split("\n") == CLASSES
    assert (about["method"], about["backbone"]) == ("QCoOp", "tiny") and len(about["backbone_sha256"]) == 64
    paths = sorted(pictures.iterdir())
    batch = torch.stack([preprocess(Image.open(path)) for path in paths])
    got, _ = probabilities(exported, batch)
    assert np.allclose(got, clf.predict_proba(paths), atol=1e-5)
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]


def test_example_of_the_docs(clf, exported, pictures, tmp_path, monkeypatch, capsys):
    page = Path(__file__).parent.parent / "docs/export.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    shutil.copy(exported, tmp_path / "pets.onnx")
    monkeypatch.chdir(tmp_path)
    for size in ((90, 60), (333, 1000), (48, 49)):
        Image.open(pictures / "0.png").resize(size).save("cat.jpg")
        found = {}
        exec(compile(code, "docs/export.md", "exec"), found)
        assert np.allclose(found["probabilities"], clf.predict_proba("cat.jpg"), atol=1e-5)
        assert capsys.readouterr().out.strip() == clf.predict("cat.jpg")[0].label


def test_weights_of_a_large_model_are_in_a_second_file(clf, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "LARGEST_FILE", 1)
    agreement = onnx_model.write_onnx(clf, tmp_path / "large.onnx")
    assert agreement.pictures == 3 and agreement.difference < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert (tmp_path / "large.onnx").stat().st_size < 500_000 < (tmp_path / "large.onnx.data").stat().st_size
    batch = next(clf.batches(onnx_model.generated_pictures(), 3))
    got, about = probabilities(tmp_path / "large.onnx", batch)
    assert np.allclose(got, clf.predict_proba(batch), atol=1e-5) and "preprocessing" in about


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_model_above_2_gb(tmp_path):
    """A prompt on a very wide ViT of random weights."""
    from qprompt.backbones.load import build_clip
    from qprompt.backbones.random_weights import ClipShape, random_state_dict
    from qprompt.prompt_files.format import PromptFile
    from qprompt.prompted_clip import initial_context, prompt_layout
    from qprompt.prompted_clip.model import PromptedCLIP
    from qprompt.prompts.coop import PromptLearner

    clip_model = build_clip(random_state_dict(ClipShape(64, 224, 2, 5120, 32, 64, 1, 1)), "random")
    learner = PromptLearner(initial_context(clip_model, 4, "a photo of a"))
    model = PromptedCLIP(clip_model, prompt_layout(clip_model, CLASSES, "a photo of a", 4), learner).eval()
    about = PromptFile({}, {"method": "CoOp"}, 0)
    clf = qprompt.Classifier(model, CLASSES, Preprocessing.of_clip(224), about)
    agreement = onnx_model.write_onnx(clf, tmp_path / "huge.onnx")
    assert (tmp_path / "huge.onnx.data").stat().st_size > 2**31
    assert agreement.difference < 1e-4


def test_half_precision_only_where_it_is_exact(clf, exported, tmp_path):
    halved = Path(shutil.copy(exported, tmp_path / "halved.onnx"))
    onnx_model._halve_(halved)
    assert halved.stat().st_size < 0.6 * exported.stat().st_size
    batch = next(clf.batches(onnx_model.generated_pictures(), 3))
    assert np.array_equal(probabilities(halved, batch)[0], probabilities(exported, batch)[0])
    onnx.checker.check_model(onnx.load(halved))


def test_a_wrong_model_is_not_written(exported, tmp_path, monkeypatch):
    other = qprompt.load_classifier(OLD, CLASSES[::-1])
    monkeypatch.setattr(onnx_model, "_export", lambda classifier, module, path: shutil.copy(exported, path))
    with pytest.raises(UserError, match="differs from PyTorch by .* is not written"):
        onnx_model.write_onnx(other, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_the_comparison_is_reported(file, exported, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_model, "_export", lambda classifier, module, path: shutil.copy(exported, path))
    out = tmp_path / "again.onnx"
    for more, count in ((["--check", str(pictures)], "5 pictures"), ([], "3 generated pictures")):
        assert main(["export", str(file), "--onnx", str(out), *more]) == 0
        said = capsys.readouterr().out
        assert f"{out}: onnxruntime agrees with PyTorch within" in said and f"({count})" in said


def test_mistakes_are_answered_first(file, tmp_path, capsys):
    for arguments, words in (
        ([str(file)], "nothing to write"),
        (["nowhere", "--onnx", "m"], "no prompt file 'nowhere'"),
        ([str(file), "--onnx", "m", "--check", "nowhere.png"], "nowhere.png does not exist"),
        ([str(file), "--onnx", str(tmp_path)], "is a folder: name a file, such as"),
        ([str(file), "--onnx", "m", "--check", str(tmp_path)], "has no images"),
        ([str(file), "--onnx", "m", "--check", str(file)], "is not an image of a known format"),
        ([str(file), "--onnx", "m", "--classes", "names.txt"], "no file 'names.txt'"),
    ):
        assert main(["export", *arguments]) == 2
        assert words in capsys.readouterr().err
