"""What an error says to type works when it is typed, in the same folder."""

import re
import shlex

import pytest
import torch
import trees

import qprompt
import train
from qprompt.__main__ import main
from qprompt.runs.project import find_project


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    trees.build(folder, "EuroSAT", content=trees.jpeg())
    return folder


class Session:
    """Types ``train.py`` in a folder: `options` of one trainer and of one run, and what is added to them."""

    def __init__(self, root, clip_file, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.flags = {"--root": str(root), "--trainer": "QCoOp", "--output-dir": str(folder / "out"), "--seed": "0"}
        self.flags |= {"--dataset-config-file": "configs/datasets/eurosat.yaml", "--backbone": "ViT-B/16"}
        self.options = {"MODEL.BACKBONE.PATH": str(clip_file), "INPUT.SIZE": "(32, 32)"}
        self.options |= {"INPUT.TRANSFORMS": "['normalize']", "DATASET.NUM_SHOTS": "4", "OPTIM.MAX_EPOCH": "1"}
        self.options |= {"OPTIM.NAME": "sgd", "DATALOADER.NUM_WORKERS": "0", "TRAINER.COOP.N_CTX": "4"}
        self.options |= {"DATASET.SUBSAMPLE_CLASSES": "base", "TRAINER.COOP.PREC": "fp32"}

    def type(self, *words):
        """Add words to the command and run it; return the exit code and the error line."""
        words = list(words)
        while words and words[0].startswith("--"):
            name = words.pop(0)
            self.flags[name] = None if name == "--eval-only" else words.pop(0)
        self.options |= dict(zip(words[::2], words[1::2], strict=True))
        flags = [word for name, value in self.flags.items() if value != "" for word in (name, value) if word]
        options = [word for pair in self.options.items() for word in pair]
        code = train.main([*flags, *options], find_project())
        lines = self.capsys.readouterr().err.splitlines()
        return code, "\n".join(line for line in lines if line.startswith("train.py:"))

    def trained(self, name="trained", *words):
        """Train a run in another folder; return the folder."""
        before = dict(self.flags), dict(self.options)
        assert self.type("--output-dir", str(self.folder / name), *words) == (0, "")
        self.flags, self.options = before
        return str(self.folder / name)


def wrong_epoch(session):
    return ["--eval-only", "--model-dir", session.trained(), "--load-epoch", "7"]


def other_position(session):
    words = ["TRAINER.COOP.CTX_INIT", "", "TRAINER.COOP.CLASS_TOKEN_POSITION", "front"]
    return ["--eval-only", "--model-dir", session.trained("front", *words)]


# What is typed (or a function of the session), and what of the error line is typed then, as a pattern.
MISTAKES = {
    "size of images": (["INPUT.SIZE", "(48, 48)"], r"type (INPUT\.SIZE '\(32, 32\)')"),
    "learning rate 0": (["OPTIM.LR", "0"], r"type (OPTIM.LR \S+)\."),
    "learning rate too large": (["OPTIM.LR", "1e38"], None),
    "precision": (["TRAINER.COOP.PREC", "fp23"], "Did you mean '(fp32)'"),
    "class-specific": (
        ["TRAINER.COOP.CSC", "True", "TRAINER.COOP.CTX_INIT", "a photo of a"],
        "type (TRAINER.COOP.CTX_INIT '') or",
    ),
    "class-specific, other way": (
        ["TRAINER.COOP.CSC", "True", "TRAINER.COOP.CTX_INIT", "a photo of a"],
        r"or (TRAINER.COOP.CSC False)\.",
    ),
    "template as words": (
        ["TRAINER.COOP.CTX_INIT", "a photo of a {}."],
        r"""Type (TRAINER.COOP.CTX_INIT ["'][^"']*["'])""",
    ),
    "epoch": (wrong_epoch, r"type (--load-epoch \d+)\."),
    "position": (other_position, r"type (TRAINER.COOP.CLASS_TOKEN_POSITION front)\."),
    "trainer": (["--trainer", "QCop"], "(?P<flag>)Did you mean '(?P<word>QCoOp)'"),
    "augmentation": (
        ["INPUT.AUGMENT", "device", "INPUT.TRANSFORMS", "['colorjitter', 'normalize']"],
        r"type (INPUT.AUGMENT cpu)\.",
    ),
    "final model": (
        ["TRAINER.QUANT.MODE", "ptq", "TEST.FINAL_MODEL", "best_val"],
        r"type (TEST.FINAL_MODEL last_step)\.",
    ),
    "key": (["OPTIM.MAX_EPOCHS", "1"], None),
    "data root": (["--root", ""], None),
}


@pytest.fixture
def session(root, clip_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(train.HERE)
    return Session(root, clip_file, tmp_path, capsys)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_train_py_says_to_type_works_in_the_same_folder(mistake, session, root):
    words, pattern = MISTAKES[mistake]
    code, line = session.type(*(words(session) if callable(words) else words))
    assert code == 2 and line.count("\n") == 0, line
    if mistake == "trainer":
        hint = ["--trainer", re.search(pattern, line)["word"]]
    elif mistake == "precision":
        hint = ["TRAINER.COOP.PREC", re.search(pattern, line)[1]]
    elif mistake == "key":
        del session.options["OPTIM.MAX_EPOCHS"]
        hint = [re.search("Did you mean '(.+?)'", line)[1], "1"]
    elif mistake == "data root":
        assert "type --root DATA" in line
        hint = ["--root", str(root)]
    elif mistake == "learning rate too large":
        rate = re.search(r"Type OPTIM.LR (\S+?)[. ]", line)[1]
        assert float(rate) == 1e37  # a tenth: a few such steps lead to a rate that works
        hint = ["OPTIM.LR", "0.002"]
    else:
        hint = shlex.split(re.search(pattern, line)[1])
    assert session.type(*hint) == (0, "")


def test_a_folder_with_a_checkpoint_belongs_to_its_run(session):
    assert session.type("OPTIM.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_FREQ", "1") == (0, "")
    (session.folder / "out/metrics.json").unlink()  # as if it had been interrupted
    code, line = session.type("OPTIM.LR", "0.5")
    assert code == 2 and "holds an unfinished run with other settings (OPTIM.LR" in line
    assert session.type("--output-dir", str(session.folder / "other")) == (0, "")  # as it says


def test_evaluation_takes_the_epoch_that_is_there(session):
    trained = session.trained()
    assert session.type("--eval-only", "--model-dir", trained, "DATASET.SUBSAMPLE_CLASSES", "new") == (0, "")


def test_hints_of_the_prompt_commands_work(tmp_path, capsys):
    torch.save({"state_dict": {"ctx": torch.randn(4, 512)}, "epoch": 3}, tmp_path / "model.pth.tar-3")
    assert main(["pack", str(tmp_path / "model.pth.tar-3"), "--out", str(tmp_path / "a.qprompt")]) == 0
    unpack = ["unpack", str(tmp_path / "a.qprompt"), "--output-dir", str(tmp_path / "o")]
    assert main([*unpack, "--as", "maple"]) == 2
    hint = re.search(r"Use (--as \w+)", capsys.readouterr().err)[1]
    assert main([*unpack, *hint.split()]) == 0
    assert main([*unpack, *hint.split()]) == 2
    assert "choose another --output-dir or --epoch" in capsys.readouterr().err
    assert main([*unpack, *hint.split(), "--epoch", "9"]) == 0
    (tmp_path / "x.png").write_bytes(trees.jpeg())
    predict = ["predict", str(tmp_path / "a.qprompt"), str(tmp_path / "x.png"), "--classes", "a,b"]
    assert main(predict) == 2
    assert "type --backbone NAME" in capsys.readouterr().err


def test_hints_about_the_backbone_of_a_prompt_work(tmp_path, capsys, clip_file):
    torch.save({"state_dict": {"ctx": torch.randn(4, 128)}, "epoch": 3}, tmp_path / "model.pth.tar-3")
    assert main(["pack", str(tmp_path / "model.pth.tar-3"), "--out", str(tmp_path / "a.qprompt")]) == 0
    (tmp_path / "x.png").write_bytes(trees.jpeg())
    predict = ["predict", str(tmp_path / "a.qprompt"), str(tmp_path / "x.png"), "--classes", "a,b"]
    assert main(predict) == 2
    assert "type --backbone NAME" in capsys.readouterr().err
    assert main([*predict, "--backbone", "tiny"]) == 0

    module = torch.nn.Module()
    module.ctx = torch.nn.Parameter(torch.randn(4, 128))
    qprompt.quantize_(module, names="ctx")
    qprompt.save(module, tmp_path / "a.qprompt", method="QCoOp", backbone="tiny", backbone_sha256="0" * 64)
    assert main(predict) == 2
    assert "or add --other-backbone" in capsys.readouterr().err
    assert main([*predict, "--other-backbone"]) == 0


def test_hints_about_existing_files_work(tmp_path, capsys):
    torch.save({"state_dict": {"ctx": torch.randn(4, 128)}, "epoch": 3}, tmp_path / "model.pth.tar-3")
    pack = ["pack", str(tmp_path / "model.pth.tar-3")]
    assert main(pack) == 0
    assert main(pack) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*pack, "--overwrite"]) == 0
