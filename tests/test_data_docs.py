"""Run docs/your_data.md step by step, with the embedded CLIP instead of ViT-B/16."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trees
from dassl.config import get_cfg_default

from qprompt.data.layouts import LAYOUTS
from qprompt.data.templates import template

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.mark.slow
def test_from_a_folder_of_images_to_a_prediction(tmp_path):
    names = ("espresso", "green_tea", "latte")
    for number, name in enumerate(names):
        (tmp_path / "drinks" / name).mkdir(parents=True)
        for k, letter in enumerate("abcdefghij"):
            (tmp_path / "drinks" / name / f"{letter}.jpg").write_bytes(trees.jpeg(100 * number + k, (60, 50)))
    check, train = blocks("bash")[:2]
    shown = subprocess.run(
        [sys.executable, "-m", "qprompt", *check.split()[1:]], cwd=tmp_path, env=env(), capture_output=True, text=True
    )
    assert shown.returncode == 0 and "ImageFolder: ok" in shown.stdout

    words = train.replace("\\\n", " ").replace("configs/", f"{ROOT}/configs/").split()
    small = ["INPUT.SIZE", "(48, 48)", "OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    small += ["DATALOADER.TRAIN_X.BATCH_SIZE", "15"]
    position = words.index("--output-dir")
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        *words[2:position],
        "--backbone",
        "tiny",
        *words[position:],
        *small,
    ]
    subprocess.run(command, cwd=tmp_path, env=env(), check=True, capture_output=True)
    assert json.loads((tmp_path / "output/drinks/metrics.json").read_text())["results"]["total"] == 9

    def printed(*arguments):
        run = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=env(), check=True, capture_output=True, text=True
        )
        return run.stdout

    predict = shlex.split(blocks("bash")[2].replace("\\\n", " "))
    out = json.loads(printed("-m", "qprompt", *predict[1:], "--json"))
    assert [entry["image"] for entry in out] == ["drinks/latte/a.jpg", "drinks/espresso/b.jpg"]
    shares = ast.literal_eval(printed("-c", blocks("python")[0]))
    by_name = {entry["name"]: entry["probability"] for entry in out[0]["classes"]}
    assert [by_name[name] for name in ("espresso", "green tea", "latte")] == pytest.approx(
        list(map(float, shares)), abs=1e-4
    )


def env():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_custom_data_set_class(tmp_path):
    for path in ("latte/a.jpg", "espresso/b.jpg"):
        (tmp_path / "drinks" / path).parent.mkdir(parents=True)
        (tmp_path / "drinks" / path).touch()
    code = {"__name__": "drinks"}
    exec(blocks("python")[1], code)
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = str(tmp_path)
    assert code["Drinks"](cfg).classnames == ["latte", "espresso"]


def test_table_of_data_sets_matches_the_layouts():
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.count("|") == 8]
    table = {row[0]: row for row in rows if row[0] in LAYOUTS}
    assert set(table) == set(LAYOUTS)
    for name, layout in LAYOUTS.items():
        _, yaml, folder, images, classes, sizes, words = table[name]
        assert (ROOT / "configs" / "datasets" / f"{yaml}.yaml").is_file()
        assert folder == f"`{layout.folder}`" and images == ", ".join(f"`{f}`" for f in layout.image_folders)
        assert classes == str(layout.classes) and words == template(name)
        expected = f"{layout.train:,} / {layout.val:,} / {layout.test:,}"
        assert sizes == (f"{layout.test:,} for testing" if layout.test_only else expected)
