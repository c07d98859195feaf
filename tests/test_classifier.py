"""`Classifier`: pictures of every kind in, class names and probabilities out, equal to those of the run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from toy import CLASSES, PIXELS, toy_trainer

import qprompt
import trainers.qcoop  # noqa: F401
from qprompt.data.device_transforms import CropTransform
from qprompt.data.images import read_image
from qprompt.data.preprocessing import Preprocessing
from qprompt.errors import UserError
from qprompt.prompt_files import classifier as module

OLD = Path(__file__).parent / "golden/run_0.1/finished/prompt_learner/prompt.qprompt"
OPTIONS = ("OPTIM.MAX_EPOCH", 1, "MODEL.LOGIT_SCALE", 20.0, "DATASET.NUM_SHOTS", 4)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, clip_file):
    trainer = toy_trainer(tmp_path_factory.mktemp("run"), clip_file, "QCoOp", *OPTIONS)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def file(trainer):
    return Path(trainer.output_dir) / trainer.prompt_record["file"]


@pytest.fixture(scope="module")
def clf(file, clip_file):
    return qprompt.load_classifier(file, backbone_path=clip_file)


@pytest.fixture(scope="module")
def pictures(trainer):
    return [item.impath for item in trainer.dm.dataset.test]


def test_file_holds_what_the_classifier_needs(trainer, file):
    about = qprompt.inspect(file)
    assert about["classnames"] == list(CLASSES)
    assert about["preprocessing"]["size"] == [PIXELS, PIXELS] and about["preprocessing"]["resize"] == PIXELS
    assert about["preprocessing"]["mean"] == list(trainer.cfg.INPUT.PIXEL_MEAN)
    assert about["run"] == {"dataset": "Toy", "classes": "all", "shots": 4, "seed": trainer.cfg.SEED}
    assert about["metrics"] == {"accuracy": round(trainer.test(), 4), "total": 18}
    assert about["logit_scale"] == 20


def test_only_test_images_count_as_tested(trainer):
    before = trainer.tested
    trainer.test(split="val")
    assert trainer.tested == before
    trainer.test("test")
    assert trainer.tested == before


def test_predictions_equal_the_evaluation_of_the_run(trainer, clf, pictures):
    trainer.set_model_mode("eval")
    with torch.no_grad():
        expected = torch.cat([trainer.model_inference(batch["img"]) for batch in trainer.test_loader])
    batch_size = trainer.cfg.DATALOADER.TEST.BATCH_SIZE
    proba = clf.predict_proba(pictures, batch_size=batch_size)
    assert proba.dtype == np.float32 and torch.equal(torch.from_numpy(proba), expected.softmax(-1))
    labels = [item.label for item in trainer.dm.dataset.test]
    assert clf.score(pictures, labels) == pytest.approx(trainer.test() / 100)
    assert clf.score(pictures, [CLASSES[label] for label in labels]) == clf.score(pictures, torch.tensor(labels))
    for prediction, row in zip(clf.predict(pictures, batch_size=batch_size), proba, strict=True):
        assert prediction.label == CLASSES[row.argmax()] and prediction.probability == row.max()
        assert [p for _, p in prediction.ranking] == sorted(row.tolist(), reverse=True)[:5]
        assert prediction.ranking[0] == (prediction.label, prediction.probability)
    assert len(clf.predict(pictures[:1], top=2)[0].ranking) == 2


def test_preprocess_is_the_test_transform(trainer, clf, pictures):
    from dassl.data.transforms import build_transform

    transform = build_transform(trainer.cfg, is_train=False)
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 45, 3), dtype=np.uint8))
    for image in (Image.open(pictures[0]), wide):
        assert torch.equal(clf.preprocess(image), transform(image))


def test_every_kind_of_pictures(clf, pictures):
    paths = pictures[:3]
    images = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.asarray(image) for image in images]
    tensors = [clf.preprocess(image) for image in images]
    expected = clf.predict_proba(paths)
    for kind in (
        images,
        arrays,
        tensors,
        np.stack(arrays),
        torch.stack(tensors),
        tuple(map(Path, paths)),
        iter(images),
    ):
        assert np.array_equal(clf.predict_proba(kind), expected)
    assert np.array_equal(clf.predict_proba([paths[0], images[1], arrays[2]]), expected)
    for one in (paths[0], Path(paths[0]), images[0], arrays[0], tensors[0]):
        assert clf.predict(one) == clf.predict([one])
        assert len(clf.predict(one)) == 1
    with torch.no_grad():
        assert torch.equal(clf(paths), clf(torch.stack(tensors)))
    features = clf.image_features(paths)
    assert features.shape == (3, clf.clip_model.visual.output_dim)
    assert torch.allclose(features.norm(dim=-1), torch.ones(3))
    assert clf.predict([]) == [] and clf.predict_proba([]).shape == (0, 6) and len(clf.image_features([])) == 0


def test_opened_images_are_seen_as_their_files(clf, tmp_path):
    rng = np.random.default_rng(0)
    colours, clear = (Image.fromarray(rng.integers(0, 255, (40, 60, n), dtype=np.uint8)) for n in (3, 4))
    tags = Image.Exif()
    tags[274] = 6
    colours.save(tmp_path / "turned.jpg", exif=tags)
    clear.save(tmp_path / "clear.png")
    Image.fromarray(rng.integers(0, 65535, (40, 60), dtype=np.uint16)).save(tmp_path / "deep.png")
    colours.save(tmp_path / "gamma.png", gamma=0.9)
    for path in tmp_path.iterdir():
        seen = clf.preprocess(read_image(path))
        assert torch.equal(clf.preprocess(Image.open(path)), seen), path
        assert np.array_equal(clf.predict_proba(Image.open(path)), clf.predict_proba(path))


def test_many_pictures_are_read_one_batch_at_a_time(clf, pictures, monkeypatch):
    sizes = []
    model = clf.model.forward
    monkeypatch.setattr(clf.model, "forward", lambda x: sizes.append(len(x)) or model(x))
    read = []
    paths = (read.append(len(sizes)) or path for path in pictures[:10])
    assert len(clf.predict(paths, batch_size=4)) == 10
    assert sizes == [4, 4, 2] and read == [0] * 4 + [1] * 4 + [2] * 2


@pytest.mark.parametrize(
    "given, words",
    [
        (5, "the pictures are a int"),
        ([5], "picture 1 is a int: expected PIL images"),
        (np.zeros((4, 4, 3)), r"picture 1 is a float64 ndarray of shape \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"array of shape \(4, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), "picture 1 is a uint8 ndarray"),
        (torch.zeros(2, 3, 5, 5), r"expected \(B, 3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "holds uint8, so it is not preprocessed"),
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (b"bytes", "picture 1 is a bytes"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused(clf, given, words):
    with pytest.raises(UserError, match=words):
        clf.predict(given)


def test_inference_mode_leaves_no_trace(file, clip_file, clf, pictures):
    wanted = clf(pictures[:2])
    with torch.inference_mode():
        inside = qprompt.load_classifier(file, backbone_path=clip_file)
        assert torch.equal(inside(pictures[:2]), wanted)
        inside.model.double().float()
    assert torch.equal(inside(pictures[:2]), wanted)
    x = torch.zeros(1, 3, PIXELS, PIXELS, requires_grad=True)
    assert torch.autograd.grad(inside(x).sum(), x)[0].any()


def test_nan_is_not_an_answer(file, clip_file, pictures):
    broken = qprompt.load_classifier(file, backbone_path=clip_file)
    broken.model.layout.rows.fill_(torch.nan)
    for ask in (broken, broken.predict, broken.predict_proba):
        with pytest.raises(UserError, match="logits hold NaN or infinite values"):
            ask(pictures[:1])


def test_labels_and_numbers_are_checked(clf, pictures):
    for labels, words in (
        (["cat"], "3 pictures and 1 labels"),
        (["cat", "cat", "hause"], "no class 'hause'.*Did you mean 'house'"),
        ([0, 1, 6], "label 6 is not a class"),
        ([0, 1, 0.5], "label 0.5"),
    ):
        with pytest.raises(UserError, match=words):
            clf.score(pictures[:3], labels)
    with pytest.raises(UserError, match="top is 0"):
        clf.predict(pictures, top=0)
    with pytest.raises(UserError, match="batch_size is 0"):
        clf.predict(pictures, batch_size=0)
    with pytest.raises(UserError, match="device 'gpu' cannot be used"):
        clf.to("gpu")
    assert clf.to("cpu") is clf


def test_other_class_names(file, clip_file, tmp_path, clf, pictures):
    names = ["red square", "blue circle"]
    (tmp_path / "names.txt").write_bytes("\ufeffred square\r\n\r\nblue circle\r\n".encode())
    (tmp_path / "names.json").write_text('["red square", "blue circle"]')
    given = (names, tuple(names), np.array(names), "red square, blue circle", tmp_path / "names.txt")
    for some in (*given, str(tmp_path / "names.json")):
        other = qprompt.load_classifier(file, some, backbone_path=clip_file)
        assert other.classnames == names
    other.save(tmp_path / "other.qprompt")
    again = qprompt.load_classifier(tmp_path / "other.qprompt", backbone_path=clip_file)
    assert np.array_equal(again.predict_proba(pictures), other.predict_proba(pictures))
    assert "metrics" not in again.about and again.about["run"]["dataset"] == "Toy"
    clf.save(tmp_path / "same.qprompt")
    assert (tmp_path / "same.qprompt").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "given, words",
    [
        ("cat", "no file 'cat'"),
        ("nowhere/names.txt", "no file 'nowhere/names.txt'"),
        ("a,b.txt", "no file 'a,b.txt'"),
        (Path("a,b"), "no file 'a,b'"),
        ("cat,cat", "cat twice"),
        ("Small_dog,small dog", "one prompt for CLIP"),
        (" , ", "no name"),
        ([], "no name"),
        (["a", ""], "an empty name"),
        (["a", 1], "hold 1, a int"),
        (["a", None], "hold None"),
        (b"a,b", "are a bytes"),
        ({"a": 1}, "are a dict"),
        (5, "are a int"),
    ],
    ids=str,
)
def test_what_are_no_class_names_is_refused(file, clip_file, given, words):
    with pytest.raises(UserError, match=words):
        qprompt.load_classifier(file, given, backbone_path=clip_file)


def test_names_files_that_are_none(file, clip_file, tmp_path):
    for content, words in (
        (b"\xff\xfe\x80", "cannot be read"),
        (b'{"a": 1}', "holds a dict"),
        (b"[1, 2]", "hold 1, a int"),
        (b"[", "cannot be read"),
        (b'["a,b"]', "expected one per line"),
    ):
        (tmp_path / "names.json").write_bytes(content)
        with pytest.raises(UserError, match=words):
            qprompt.load_classifier(file, tmp_path / "names.json", backbone_path=clip_file)


def test_file_of_an_old_version(tmp_path, pictures):
    """It holds no class names; everything else works as before."""
    old = shutil.copy(OLD, tmp_path)
    assert "classnames" not in qprompt.inspect(old)
    with pytest.raises(UserError, match="holds no class names"):
        qprompt.load_classifier(old)
    clf = qprompt.load_classifier(old, "forest,river")
    assert clf.preprocess == Preprocessing.of_clip(clf.clip_model.visual.input_resolution)
    assert clf.predict(pictures[0])[0].label in ("forest", "river")
    clf.save(tmp_path / "new.qprompt")
    again = qprompt.load_classifier(tmp_path / "new.qprompt")
    assert again.classnames == ["forest", "river"]
    assert np.array_equal(again.predict_proba(pictures), clf.predict_proba(pictures))


def test_class_specific_contexts_belong_to_the_classes_of_the_file(tmp_path, clip_file):
    trainer = toy_trainer(tmp_path, clip_file, "QCoOp", "TRAINER.COOP.CSC", True, "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    file = tmp_path / "output" / trainer.prompt_record["file"]
    clf = qprompt.load_classifier(file, backbone_path=clip_file)
    batch = next(iter(trainer.test_loader))["img"]
    trainer.set_model_mode("eval")
    with torch.no_grad():
        assert torch.equal(clf(batch), trainer.model_inference(batch))
    for names in ("cat,dog", list(CLASSES[::-1])):
        with pytest.raises(UserError, match="class-specific"):
            qprompt.load_classifier(file, names, backbone_path=clip_file)


def test_backbone_of_another_resolution(file, clip_file, pictures):
    with pytest.raises(UserError, match="other weights"):
        qprompt.load_classifier(file, backbone="tiny")
    clf = qprompt.load_classifier(OLD, "a,b", backbone="tiny", other_backbone=True)
    resolution = clf.clip_model.visual.input_resolution
    odd = Preprocessing((PIXELS, PIXELS), PIXELS, "bilinear")
    about = {**clf.about, "preprocessing": odd.to_json()}
    adapted = module._preprocessing(module.PromptFile({}, about, 0), clf.clip_model, True)
    assert adapted == Preprocessing((resolution, resolution), resolution, "bilinear")
    with pytest.raises(UserError, match="this backbone expects"):
        module._preprocessing(module.PromptFile({}, about, 0), clf.clip_model, False)


def test_repr_says_what_it_is(clf):
    text = repr(clf)
    assert text.startswith("Classifier(QCoOp on ViT-B/16, 6 classes: cat, big_dog, red fire truck, tree, house, ...; ")
    assert "test accuracy" in text and "cpu" in text


def test_transforms_that_can_be_described():
    bicubic = T.InterpolationMode.BICUBIC
    end = [T.ToTensor(), T.Normalize([0.5] * 3, [0.2] * 3)]
    steps = [T.Resize(40, interpolation=bicubic), T.CenterCrop((32, 30)), *end]
    found = Preprocessing.of_transform(T.Compose(steps))
    assert found == Preprocessing((32, 30), 40, "bicubic", (0.5,) * 3, (0.2,) * 3)
    assert Preprocessing.from_json(found.to_json()) == found
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 91, 3), dtype=np.uint8))
    assert torch.equal(found(image), T.Compose(steps)(image))
    on_device = CropTransform(T.Compose([steps[0], T.CenterCrop(32), *end]))
    assert Preprocessing.of_transform(on_device).size == (32, 32)
    plain = T.Compose([T.Resize((20, 24)), T.ToTensor()])
    assert torch.equal(Preprocessing.of_transform(plain)(image), plain(image))
    for other in (
        None,
        steps[0],
        T.Compose([]),
        T.Compose(end),
        T.Compose([T.Resize(40), T.ToTensor()]),
        T.Compose([*steps, T.RandomErasing()]),
        T.Compose([steps[1], steps[0], *end]),
        T.Compose([T.Resize(40, max_size=60), *steps[1:]]),
    ):
        assert Preprocessing.of_transform(other) is None
