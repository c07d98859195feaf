"""A run that was cut off and started again ends as if nothing had happened, bit for bit."""

import json

import pytest
import torch
import trees

import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    trees.build(folder, "EuroSAT", content=trees.jpeg())
    return folder


def arguments(root, clip_file, output, trainer):
    return [
        *("--root", str(root), "--trainer", trainer, "--output-dir", str(output), "--seed", "1"),
        *("--dataset-config-file", "configs/datasets/eurosat.yaml", "--backbone", "ViT-B/16"),
        *("MODEL.BACKBONE.PATH", str(clip_file), "INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS"),
        "['random_resized_crop', 'random_flip', 'normalize']",  # random states of every kind are in play
        *("DATASET.NUM_SHOTS", "8", "OPTIM.NAME", "sgd", "OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "4"),
        *("OPTIM.WARMUP_EPOCH", "1", "OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_CONS_LR", "1e-3"),
        *("DATALOADER.TRAIN_X.BATCH_SIZE", "16", "DATALOADER.NUM_WORKERS", "0", "TRAIN.CHECKPOINT_FREQ", "1"),
        *("TRAINER.COOP.PREC", "fp32", "TRAINER.COOP.N_CTX", "4", "TRAINER.QUANT.BITS", "2"),
        *("TRAINER.QUANT.MIN_INTERVAL", "2", "TRAINER.QUANT.KL_THRESHOLD", "0"),  # re-fits happen
    ]


def last_checkpoint(output):
    return torch.load(output / "prompt_learner" / "model.pth.tar-4", weights_only=True)


def test_resumed_run_equals_an_uninterrupted_one(root, clip_file, tmp_path, monkeypatch, capsys):
    from trainers.qcoop import QCoOp

    monkeypatch.chdir(train.HERE)
    assert train.main(arguments(root, clip_file, tmp_path / "whole", "QCoOp")) == 0

    after_epoch = QCoOp.after_epoch

    def cut_off(self):
        after_epoch(self)
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(QCoOp, "after_epoch", cut_off)
        assert train.main(arguments(root, clip_file, tmp_path / "cut", "QCoOp")) == 130
    assert "takes the run up" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "metrics.json").exists()
    assert train.main(arguments(root, clip_file, tmp_path / "cut", "QCoOp")) == 0

    whole, cut = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "cut")
    assert whole["state_dict"].keys() == cut["state_dict"].keys()
    for key, tensor in whole["state_dict"].items():
        other = cut["state_dict"][key]
        assert torch.equal(tensor, other) if isinstance(tensor, torch.Tensor) else tensor == other, key
    for name in ("prompt_learner/prompt.qprompt", "quantization.npz"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    records = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "cut")]
    assert records[0]["results"] == records[1]["results"]
    assert records[0]["prompt"] == records[1]["prompt"]
    assert records[0]["prompt"]["refits"] > 0


def test_run_cut_off_while_a_checkpoint_is_written_takes_up_the_one_before(root, clip_file, tmp_path, monkeypatch):
    import qprompt.files
    from trainers.coop import CoOp

    monkeypatch.chdir(train.HERE)
    replace, calls = qprompt.files.os.replace, []

    def killed(source, target):
        calls.append(str(target))
        if sum("model.pth.tar" in name for name in calls) > 1:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(qprompt.files.os, "replace", killed)
        assert train.main(arguments(root, clip_file, tmp_path / "cut", "CoOp")) == 130
    folder = tmp_path / "cut" / "prompt_learner"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "model.pth.tar-1"]
    epochs = []
    before_epoch = CoOp.before_epoch
    monkeypatch.setattr(CoOp, "before_epoch", lambda self: (epochs.append(self.epoch), before_epoch(self)))
    assert train.main(arguments(root, clip_file, tmp_path / "cut", "CoOp")) == 0
    assert epochs == [1, 2, 3]


def test_early_checkpoint_of_a_long_run_is_evaluated(root, clip_file, tmp_path, monkeypatch):
    monkeypatch.chdir(train.HERE)
    settings = arguments(root, clip_file, tmp_path / "whole", "QCoOp")
    assert train.main([*settings, "OPTIM.MAX_EPOCH", "4"]) == 0
    settings[settings.index("--output-dir") + 1] = str(tmp_path / "eval")
    how = ["--eval-only", "--model-dir", str(tmp_path / "whole"), "--load-epoch", "all"]
    assert train.main(how + settings) == 0
    curve = json.loads((tmp_path / "eval" / "metrics.json").read_text())["curve"]
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4]
