"""`qprompt look` on real runs (a toy data set, a small random CLIP): words, classes, errors, quantization."""

import io
import sys

import pytest
import torch
import toy
from PIL import Image

import train
from qprompt.__main__ import main
from qprompt.report.look.classes import class_table, confusion, confusion_figure
from qprompt.report.look.mistakes import contact_sheet, mistakes_table, most_confident_errors
from qprompt.report.look.rebuild import Predictions, predict, rebuild
from qprompt.report.look.words import words_table
from qprompt.report.records import read_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, clip_file):
    """Folders of a CoOp, a QCoOp and a zero-shot run on the base classes of Toy."""
    folder = tmp_path_factory.mktemp("look")
    (folder / "data").mkdir()
    options = {
        "DATASET.NAME": "Toy", "MODEL.BACKBONE.PATH": clip_file, "INPUT.SIZE": f"({toy.PIXELS}, {toy.PIXELS})",
        "INPUT.TRANSFORMS": "['normalize']", "DATASET.SUBSAMPLE_CLASSES": "base", "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 6, "OPTIM.NAME": "sgd", "OPTIM.LR": 0.02, "OPTIM.MAX_EPOCH": 2,
        "TRAINER.COOP.PREC": "fp32", "TRAINER.COOP.CTX_INIT": "a photo of a",
    }  # fmt: skip
    stdout = sys.stdout
    for trainer in ("CoOp", "QCoOp", "ZeroshotCLIP"):
        argv = ["--root", folder / "data", "--trainer", trainer, "--output-dir", folder / trainer, "--seed", 1]
        argv += ["--backbone", "ViT-B/16", *(word for pair in options.items() for word in pair)]
        try:
            assert train.main([str(word) for word in argv]) == 0
        finally:
            sys.stdout = stdout  # Dassl's logger replaces it
    return folder


def test_rebuilt_trainer_predicts_what_the_run_measured(runs):
    for trainer in ("CoOp", "QCoOp", "ZeroshotCLIP"):
        run = read_run(runs / trainer / "metrics.json")
        found = predict(rebuild(run))
        assert 100 * float(found.correct.float().mean()) == pytest.approx(run.accuracy)
        assert found.classnames == list(toy.CLASSES[:3])
        assert len(found.paths) == len(found.labels) == 9
        assert torch.allclose(found.probabilities.sum(dim=1), torch.ones(9))


def test_other_classes_and_a_moved_data_root(runs, tmp_path):
    run = read_run(runs / "QCoOp" / "metrics.json")
    found = predict(rebuild(run, "new", str(tmp_path)))
    assert found.classnames == list(toy.CLASSES[3:])
    assert all(path.startswith(str(tmp_path)) for path in found.paths)


def test_quantized_run_is_compared_with_its_latent_weights(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["look", str(runs / "QCoOp"), "--out", str(tmp_path / "out"), "--mistakes", "3"]) == 0
    shown, logged = capsys.readouterr()
    assert logged.startswith("Written to ") and logged.count("\n") == 1
    assert "Latent weights" in shown and "Quantized" in shown and "[V]4" in shown
    assert "Classes: QCoOp against latent weights" in shown and "McNemar" in shown
    assert "Dassl" not in shown and "Loading" not in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"look.html", "look.csv", "confusion.pdf", "mistakes.png"}
    assert (tmp_path / "out/look.html").read_text().count("<img") == 2


def test_two_runs_are_compared_per_class(runs, capsys):
    assert main(["look", str(runs / "QCoOp"), "--against", str(runs / "CoOp"), "--format", "markdown"]) == 0
    assert "### Classes: QCoOp against CoOp" in capsys.readouterr().out


def test_zero_shot_has_no_words(runs, capsys):
    assert main(["look", str(runs / "ZeroshotCLIP")]) == 0
    shown = capsys.readouterr().out
    assert "Nearest words" not in shown and "Most confident errors" in shown


def test_folder_of_the_run_is_not_changed(runs):
    before = {path: path.stat().st_mtime_ns for path in (runs / "QCoOp").rglob("*")}
    assert main(["look", str(runs / "QCoOp")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (runs / "QCoOp").rglob("*")} == before


def test_wrong_arguments_are_named(runs, tmp_path, capsys):
    assert main(["look", str(runs)]) == 2
    assert "contains 3 runs" in capsys.readouterr().err
    assert main(["look", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_initial_context_is_nearest_to_its_own_words(clip_model):
    from qprompt.prompted_clip import initial_context

    context = initial_context(clip_model, 4, "a photo of a")
    (first, *_, last) = words_table({"Words": context}, clip_model, [], None).rows
    table = words_table({"Words": context, "Moved": context + 3}, clip_model, [], None)
    assert first[:1] == ["[V]1"] and first[1].startswith("a (0.00)") and last[1].startswith("a (0.00)")
    assert [row[1].split()[0] for row in table.rows] == ["a", "photo", "of", "a"]
    assert table.rows[0][3] == f"{3 * context.shape[1] ** 0.5:.3g}"


def test_rows_of_class_specific_contexts_have_the_class(clip_model):
    context = clip_model.token_embedding.weight[:8].detach().reshape(4, 2, -1)
    table = words_table({"Words": context}, clip_model, ["cat", "dog", "cow", "pig"], torch.arange(10))
    assert [row[:2] for row in table.rows[:3]] == [["cat", "[V]1"], ["cat", "[V]2"], ["dog", "[V]1"]]


@pytest.fixture
def predictions(tmp_path):
    """Five pictures of three classes, the last with no picture; one picture is wrong and sure, one wrong and unsure."""
    probabilities = torch.tensor([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.45, 0.55, 0], [0.1, 0.9, 0], [0.95, 0.05, 0]])
    paths = []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (30 + 20 * number, 40), (40 * number, 0, 0)).save(paths[-1])
    names = ["cat", "dog", "a class name that is much too long for one picture's width"]
    return Predictions(names, paths, torch.tensor([0, 0, 0, 1, 1]), probabilities)


def test_class_table_counts(predictions):
    table = class_table("run", predictions)
    assert table.rows[0][:2] == ["cat", 3] and table.rows[0][2].mean == pytest.approx(100 / 3)
    assert table.rows[0][3] == "dog (2)" and table.rows[2][1:] == [0, None, "-"]
    assert confusion(predictions).tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]


def test_confusion_matrix_has_counts_in_its_cells(predictions):
    pytest.importorskip("matplotlib")
    axis = confusion_figure(predictions, "title").axes[0]
    cells = {tuple(map(int, text.get_position())): text for text in axis.texts}
    assert {(row, column): text.get_text() for (column, row), text in cells.items()} == {
        (0, 0): "1", (0, 1): "2", (1, 0): "1", (1, 1): "1",
    }  # fmt: skip
    assert cells[1, 0].get_color() == "white" and cells[0, 0].get_color() == "black"  # 67% and 33% of the class


def test_confusion_matrix_of_many_classes_has_no_counts(predictions):
    """A number would not fit into its cell."""
    pytest.importorskip("matplotlib")
    names = [f"class {number}" for number in range(100)]
    many = Predictions(names, predictions.paths, predictions.labels, torch.eye(100)[predictions.predicted])
    assert len(confusion_figure(many, "title").axes[0].texts) == 0


def test_images_won_and_lost_are_counted(predictions):
    flipped = predictions.probabilities.clone()
    flipped[1] = torch.tensor([0.8, 0.2, 0])
    other = Predictions(predictions.classnames, predictions.paths, predictions.labels, flipped)
    table = class_table("with", other, "without", predictions)
    assert table.rows[0][0] == "cat" and table.rows[0][5] == "+1 -0"
    assert table.rows[0][4].mean == pytest.approx(100 / 3)
    assert "+1 -0 of 5" in table.notes[1] and "p = 1)" in table.notes[1]


def test_most_confident_errors_come_first(predictions):
    assert most_confident_errors(predictions, 2) == [4, 1]
    table = mistakes_table(predictions, 2)
    assert table.rows[0] == ["95.0%", "cat", "dog", predictions.paths[4]]
    assert table.notes == ["2 of 3 errors on 5 images."]


def test_contact_sheet_is_a_picture(predictions):
    predictions.classnames[1] = "Hündchen 犬"
    sheet = contact_sheet(predictions, 10)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    assert sheet.width == 3 * 168 + 8
    right = Predictions(predictions.classnames, predictions.paths[:1], torch.tensor([0]), predictions.probabilities[:1])
    assert contact_sheet(right, 10) is None
