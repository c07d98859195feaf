"""`qprompt reproduce`: its plan, its refusals, its claims, its report, and a complete small run."""

import dataclasses
import re
from pathlib import Path

import pytest
import trees
import yaml
from report_runs import write_run

from qprompt.__main__ import main
from qprompt.data import checks, layouts
from qprompt.report.claims import FAILS, HOLDS, OPEN, assets, claims, decide, published_row
from qprompt.report.published import published
from qprompt.report.reproduction import beside_tables, scores_of, write_reproduction
from qprompt.report.scores import Score
from qprompt.report.tables import Stat
from qprompt.sweep.arms import arms, dataset_names, plan_arms
from qprompt.sweep.estimate import Device, Estimator, Size, bytes_on_disk, sizes_of
from qprompt.sweep.reproduce import blocks, fitting

ROOT = Path(__file__).resolve().parent.parent
ELEVEN = published()["datasets"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def build(root, names, monkeypatch, content=b"x"):
    """Build trees and register their sizes as the published ones."""
    for name in names:
        trees.build(root, name, content=content)
        layout = layouts.LAYOUTS[name]
        split = checks.check_layout(layout, root)[1]
        sizes = {part: len(items) for part, items in split._asdict().items()}
        count = len({item.label for item in split.train})
        monkeypatch.setitem(layouts.LAYOUTS, name, dataclasses.replace(layout, classes=count, **sizes))


def reproduce(capsys, *words):
    code = main(["reproduce", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# plan


def test_dry_run_on_all_data_sets_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capsys, clip_file):
    build(tmp_path / "data", ELEVEN, monkeypatch)
    words = [tmp_path / "data", "--dry-run", "--backbone-path", clip_file, "--output", tmp_path / "out"]
    code, out, _ = reproduce(capsys, *words, "--gpus", "none", "--jobs", "1")
    assert code == 0, out
    assert not (tmp_path / "out").exists()
    # Each seed: CoOp, QCoOp, MaPLe, QMaPLe, 3 quantized and 3 noisy arms on 11 data sets, 2 arms with 50 epochs on the
    # 10 of which these are not the published ones; a training run and two tests each. Zero-shot: two tests, once.
    assert f"{3 * (3 * 10 * 11 + 3 * 2 * 10) + 2 * 11} runs, 0 of them finished" in out
    assert "MISSING" not in out and "on CPU, 1 at a time" in out and "no run here has confirmed" in out
    assert re.search(r"Disk: about \d+\.\d\d GB", out)
    assert out.index("seed 1: CoOp, noise") < out.index("seed 2: ZeroshotCLIP; CoOp; QCoOp")
    assert set(re.search(r"seed 1: Zero.*\n.*: (.*)\n", out)[1].split()) == set(dataset_names())


def test_hours_choose_and_name_what_is_left_out(tmp_path, monkeypatch, capsys, clip_file):
    build(tmp_path, ["EuroSAT", "DescribableTextures"], monkeypatch)
    words = [tmp_path, "--dry-run", "--backbone-path", clip_file, "--gpus", "none", "--jobs", "1"]
    words += ["--datasets", "dtd", "eurosat", "--seeds", "1", "--epochs", "2", "--output", tmp_path / "out"]
    everything = reproduce(capsys, *words)[1]
    part = reproduce(capsys, *words, "--hours", "0.15")[1]
    assert "left out" not in everything and "left out" in part
    number = [int(re.search(r"(\d+) runs, 0 of", out)[1]) for out in (everything, part)]
    assert 0 < number[1] < number[0] == 76
    code, _, err = reproduce(capsys, *words, "--hours", "0.0001")
    assert code == 2 and "Give more --hours" in err


def test_first_blocks_are_those_that_tell_most():
    by_arm = plan_arms("data", "output", ["dtd", "eurosat"], [1, 2], {})
    sizes = {"dtd": {"base": Size(24, 384, 864), "new": Size(23, 368, 828)}}
    sizes["eurosat"] = {"base": Size(5, 80, 4200), "new": Size(5, 80, 3900)}
    estimator = Estimator(sizes, Device("A100", 500, 8, 1))
    ordered = blocks(by_arm, estimator)
    assert [(b.seed, b.tier) for b in ordered] == sorted((b.seed, b.tier) for b in ordered)
    assert [b.dataset for b in ordered[:2]] == ["eurosat", "dtd"]
    folders = [run.folder for block in ordered for run in block.runs]
    assert len(folders) == len(set(folders)) == len({r.folder for runs in by_arm.values() for r in runs})
    for block in ordered:  # an evaluation comes after its training run
        known = [run.folder for run in block.runs]
        assert all(run.after is None or known.index(run.after) < known.index(run.folder) for run in block.runs)
    chosen, left = fitting(ordered, estimator, None)
    total = sum(block.seconds for block in chosen)
    assert total > 0 and not left
    some, rest = fitting(ordered, estimator, total / 3)
    assert 0 < sum(block.seconds for block in some) <= total / 3
    assert len(some) + len(rest) == len(ordered)


def test_controls_train_like_the_method_that_they_are_compared_with():
    by_arm = plan_arms("data", "output", ["dtd", "imagenet"], [1], {})

    def config(arm, dataset):
        run = next(r for r in by_arm[arm] if str(r.choice.dataset) == dataset and r.after is None)
        quantization = ("TRAINER.QUANT.", "TRAINER.NOISE.", "TRAINER.NAME")
        return {key: value for key, value in run.settings.config.items() if not key.startswith(quantization)}

    for dataset, epochs in (("dtd", 200), ("imagenet", 50)):
        expected = config("QCoOp", dataset)
        assert (expected["OPTIM.MAX_EPOCH"], expected["TRAINER.COOP.CTX_INIT"]) == (epochs, "a photo of a")
        for arm in arms():
            if arm.trainer in ("CoOp", "QCoOp", "NoisyCoOp"):
                change = {"OPTIM.MAX_EPOCH": 50} if arm.name.endswith("50 epochs") else {}
                assert config(arm.name, dataset) == expected | change, arm
    shared = [
        {r.folder for r in by_arm[name] if str(r.choice.dataset) == "imagenet"} for name in ("CoOp", "CoOp, 50 epochs")
    ]
    assert shared[0] == shared[1]  # 50 epochs are the published ones there


def test_estimates_grow_with_the_work_and_follow_the_device():
    by_arm = plan_arms("data", "output", ["dtd"], [1], {})
    runs = {name: by_arm[name][0] for name in ("CoOp", "CoOp, 50 epochs", "MaPLe")}

    def seconds(name, speed=1.0, classes=24, device="CPU", cores=1, seen=None):
        sizes = {"dtd": dict.fromkeys(("base", "new"), Size(classes, classes * 16, 800))}
        return Estimator(sizes, Device(device, speed, cores, 1)).seconds([runs[name]], set() if seen is None else seen)

    assert seconds("CoOp") > 3 * seconds("CoOp, 50 epochs") > 0
    assert seconds("CoOp", classes=100) > 4 * seconds("CoOp")
    assert seconds("MaPLe", speed=4) < seconds("MaPLe")
    assert (
        seconds("CoOp", 1500, device="H100", cores=16) < seconds("CoOp", 100, device="T4", cores=16) < seconds("CoOp")
    )
    assert seconds("CoOp", 1500, device="H100") == seconds("CoOp", 100, device="T4")  # one core prepares the images
    seen: set = set()
    first = seconds("CoOp", seen=seen)
    assert seconds("CoOp", seen=seen) < first  # its image features are cached
    assert bytes_on_disk([runs["MaPLe"]]) > 8 * 3_548_160 > bytes_on_disk([runs["CoOp"]])


def test_sizes_of_halves():
    from qprompt.data.items import Item, Split

    def items(*labels):
        return [Item(f"{k}.jpg", label, str(label)) for k, label in enumerate(labels)]

    halves = sizes_of(Split(items(0, 0, 0, 1, 2), [], items(0, 1, 1, 2, 2, 2)), shots=2)
    assert halves == {"base": Size(2, 3, 3), "new": Size(1, 1, 3)}


# refusals


def test_missing_data_and_weights_are_refused_before_any_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    build(tmp_path / "data", ["EuroSAT"], monkeypatch)
    words = [tmp_path / "data", "--datasets", "eurosat", "dtd", "--output", tmp_path / "out", "--gpus", "none"]
    code, _, err = reproduce(capsys, *words)
    assert code == 2 and "nothing was started" in err
    assert "dtd does not exist" in err and "qprompt prepare-data DescribableTextures" in err
    assert "ViT-B-16.pt" in err and "--download" in err and "--backbone-path FILE" in err
    assert "eurosat does not exist" not in err
    assert not (tmp_path / "out").exists()
    code, out, _ = reproduce(capsys, *words, "--dry-run")
    assert code == 1 and out.count("MISSING: ") == 2


def test_incomplete_data_and_damaged_weights_are_refused(tmp_path, capsys):
    trees.build(tmp_path, "EuroSAT", content=b"x")  # not of the published size
    (tmp_path / "clip.pt").write_bytes(b"not weights")
    words = ["--datasets", "eurosat", "--backbone-path", tmp_path / "clip.pt", "--output", tmp_path / "out"]
    code, _, err = reproduce(capsys, tmp_path, *words, "--gpus", "none")
    assert code == 2 and "training images instead of 13,500" in err and "read as CLIP weights" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "'nowhere' is not a folder"),
        ([".", "--datasets", "eurosta"], "Did you mean 'eurosat'"),
        ([".", "--hours", "0"], "--hours expects a number above 0"),
        ([".", "--epochs", "-1"], "--epochs expects a number above 0"),
        ([".", "--set", "OPTIM.LR"], "--set expects KEY=VALUE"),
        ([".", "--set", "OPTIM.LRR=1"], "OPTIM.LRR"),
    ],
)
def test_wrong_arguments_are_refused(capsys, words, message):
    code, _, err = reproduce(capsys, *words, "--dry-run")
    assert code == 2 and message in err


# claims

CLAIMS = {claim.text: claim for claim in claims()}


def scores(**news):
    """Scores with base 80 and these new accuracies, one per data set."""
    names = {"zs": "ZeroshotCLIP", "coop": "CoOp", "q": "QCoOp", "q4": "QCoOp, 4 bits", "weak": "CoOp, noise 0.001"}
    return [
        Score(names[name], f"D{k}", 0, 0 if name == "zs" else 16, 1, accuracy={"base": 80.0, "new": value})
        for name, values in news.items()
        for k, value in enumerate(values)
    ]


def outcome(text, **news):
    return decide(CLAIMS[text], scores(**news)).outcome


LOW, HIGH = [60.0 + k for k in range(8)], [63.0 + 1.1 * k for k in range(8)]
MIXED = [value + (-1) ** k * 3 for k, value in enumerate(LOW)]


def test_direction_is_decided_by_the_test():
    text = "QCoOp's H is above CoOp's"
    assert outcome(text, coop=LOW, q=HIGH) == HOLDS
    assert outcome(text, coop=HIGH, q=LOW) == FAILS
    assert outcome(text, coop=LOW, q=MIXED) == OPEN
    assert outcome(text, coop=LOW[:5], q=HIGH[:5]) == OPEN  # too few data sets
    assert outcome(text, coop=LOW) == OPEN
    assert outcome("QCoOp's new accuracy is above zero-shot", zs=LOW, q=HIGH) == HOLDS
    assert outcome("CoOp's new accuracy is below zero-shot", zs=LOW, coop=HIGH) == FAILS


def test_margins_are_decided_by_the_interval():
    text = "1 bit is as good as 4 bits (H)"
    assert outcome(text, q4=LOW, q=[v + 0.1 for v in LOW]) == HOLDS
    assert outcome(text, q4=LOW, q=HIGH) == HOLDS  # better is as good
    assert outcome(text, q4=HIGH, q=LOW) == FAILS
    assert outcome(text, q4=LOW, q=MIXED) == OPEN
    text = "Weak noise (0.001) does nothing to CoOp's H"
    assert outcome(text, coop=LOW, weak=[v + 0.1 for v in LOW]) == HOLDS
    assert outcome(text, coop=LOW, weak=HIGH) == FAILS
    assert outcome(text, coop=LOW, weak=MIXED) == OPEN


@pytest.mark.parametrize(
    ("stored", "expected"), [(1_774_656, HOLDS), (1_788_480, HOLDS), (1_900_000, FAILS), (None, OPEN)]
)
def test_size_is_computed_from_the_stored_bytes(stored, expected):
    pair = [Score("MaPLe", "D", 0, 16, 1, accuracy={"base": 80.0, "new": 70.0}, stored_bytes=7_096_320)]
    pair.append(dataclasses.replace(pair[0], method="QMaPLe", stored_bytes=stored))
    verdict = decide(CLAIMS["QMaPLe's prompt takes a quarter of MaPLe's bytes"], pair)
    assert verdict.outcome == expected
    assert stored is None or f"{stored:,} of 7,096,320 B" in verdict.reason


def test_claims_name_arms_and_rows_that_exist():
    names = {arm.name for arm in arms()}
    assert assets()["rows"].keys() <= names
    for method, rows in assets()["rows"].items():
        assert all(published_row(method, table) is not None for table in rows)
    for claim in claims():
        assert {claim.first, claim.second} <= names
        if claim.table and claim.kind != "size":
            for name in (claim.first, claim.second):
                assert claim.measure.lower() in published_row(name, claim.table), claim


def test_every_published_number_has_a_source():
    assert all(table["source"] and table["rows"] for table in published()["tables"])
    assert len({table["key"] for table in published()["tables"]}) == len(published()["tables"])


# report


def write_arm(folder, trainer, base, new, datasets=ELEVEN, seeds=(1, 2, 3), **settings):
    """Write the runs of an arm; returns its metrics files. Seed s adds s - 2 points, data set k adds k / 10."""
    files = []
    for k, dataset in enumerate(datasets):
        for seed in seeds if trainer != "ZeroshotCLIP" else seeds[:1]:
            train = folder / f"train/{dataset}/seed{seed}"
            more = {"seed": seed, "backbone": "ViT-B/16", "settings": settings}
            shift = (seed - 2) * (trainer != "ZeroshotCLIP") + k / 10
            if trainer != "ZeroshotCLIP":
                files.append(
                    write_run(train, trainer, dataset, accuracy=base + shift, prompt={"payload_bytes": 260}, **more)
                )
                more["model_dir"] = str(train)
            for classes, value in (("base", base), ("new", new)):
                where = folder / f"{classes}/{dataset}/seed{seed}"
                files.append(
                    write_run(where, trainer, dataset, mode="eval", classes=classes, accuracy=value + shift, **more)
                )
    return [file / "metrics.json" for file in files]


def test_report_puts_the_paper_beside_the_runs(tmp_path):
    files = {
        "ZeroshotCLIP": write_arm(tmp_path / "zs", "ZeroshotCLIP", 69.0, 74.0),
        "CoOp": write_arm(tmp_path / "coop", "CoOp", 82.0, 63.0),
        "QCoOp": write_arm(tmp_path / "q", "QCoOp", 80.0, 75.0),
        "QCoOp, PTQ": write_arm(tmp_path / "ptq", "QCoOp", 80.0, 70.0, ELEVEN[:7], **{"TRAINER.QUANT.MODE": "ptq"}),
        "CoOp, 50 epochs": write_arm(tmp_path / "short", "CoOp", 81.0, 70.0, **{"OPTIM.MAX_EPOCH": 50}),
    }
    found, runs, warnings = scores_of(files)
    assert {s.method for s in found} == files.keys() and not warnings
    assert len(runs) == sum(map(len, files.values()))
    tables = {table.title: table for table in beside_tables(found)}
    main_rows = {
        tuple(row[:2]): row[2:] for row in tables["Beside the paper: Base to new, average of 11 data sets"].rows
    }
    paper, here, interval, difference, count, seeds = main_rows["CoOp", "Base"]
    assert (paper, here) == (Stat(82.69), Stat(pytest.approx(82.5), pytest.approx(1.0), 3))
    # 82.5 -+ t(0.975, 2 degrees) * 1 / sqrt(3) = 82.5 -+ 2.484
    assert interval == "80.02 to 84.98"
    assert (difference.mean, count, seeds) == (pytest.approx(-0.19), "11 of 11", 3)
    assert main_rows["CLIP zero-shot", "New"][2] is None  # nothing varies
    assert main_rows["MaPLe", "H"][1] == "not run"
    ptq = next(
        row for row in tables["Beside the paper: Quantization during or after training (QCoOp)"].rows if row[0] == "PTQ"
    )
    assert ptq[5] is None and ptq[6] == "7 of 11"  # other data sets than the paper's average

    text = write_reproduction(files, tmp_path / "report", ["weights from FILE"])
    assert re.search(r"QCoOp's H is above CoOp's +holds", text)
    assert re.search(r"QAT's H is above PTQ's +holds", text)
    assert re.search(r"QMaPLe's H is above MaPLe's +not decided +not run: MaPLe, QMaPLe", text)
    assert "Note: weights from FILE" in text
    page = (tmp_path / "report/reproduction.html").read_text()
    assert "does not hold" in page and "Controls that the paper does not have" in page
    assert {f.suffix for f in (tmp_path / "report").iterdir()} == {".csv", ".html", ".md", ".tex", ".txt"}


# a complete run

TINY = ["INPUT.SIZE=(32,32)", "TRAINER.COOP.PREC=fp32", "TRAINER.MAPLE.PREC=fp32", "TRAINER.MAPLE.PROMPT_DEPTH=3"]
TINY += ["DATALOADER.NUM_WORKERS=0"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_complete_small_run_reports_and_resumes(tmp_path, monkeypatch, capsys, clip_file):
    build(tmp_path / "data", ["EuroSAT", "DescribableTextures"], monkeypatch, content=trees.jpeg())
    words = [tmp_path / "data", "--datasets", "dtd", "eurosat", "--seeds", "1", "--epochs", "1", "--gpus", "none"]
    words += ["--backbone-path", clip_file, "--output", tmp_path / "out"]
    words += [word for setting in TINY for word in ("--set", setting)]
    code, out, err = reproduce(capsys, *words)
    assert code == 0, out + err
    assert "all 76 runs are finished" in out and "not a reproduction: all runs have INPUT.SIZE=(32,32)" in out
    assert out.count("2 data sets, 6 are needed") == 14
    record = yaml.safe_load((tmp_path / "out/sweeps/reproduce/sweep.json").read_text())
    assert [run["state"] for run in record["runs"]] == ["finished"] * 76
    report = tmp_path / "out/reproduction/reproduction.txt"
    before = report.read_text()
    report.unlink()
    code, out, _ = reproduce(capsys, *words)
    assert code == 0 and "76 runs, 76 of them finished; about 0.0 h" in out and "76 already finished" in out
    assert report.read_text() == before
