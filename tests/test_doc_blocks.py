"""Every bash and python block of the README and the user docs runs, in order, from a bare shell.

What is not there is replaced: OpenAI's weights by small random ones, the benchmark by small trees, pictures by drawn
ones, and pip by a program that installs nothing. Configs train for one epoch. A block that cannot run says so in the
page: ``<!-- not run: REASON -->`` above it; ``<!-- slow -->`` leaves it to ``pytest -m slow``.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trees
from commands import python
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>slow|not run: [^>]+|tests/\S+ runs this) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```",
    re.S,
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose blocks take longer than the default suite has time for.
SLOW = {"prompt_file", "quickstart", "sweeps", "tiny_world", "training", "your_data"}
STAND_IN = """

from qprompt.backbones.random_weights import ClipShape, random_state_dict
_real_load_state_dict = load_state_dict

def load_state_dict(name, path=""):
    if path or name not in _openai_urls():
        return _real_load_state_dict(name, path)
    return random_state_dict(ClipShape(64, 224, 12, 64, 56, 64, 1, 12))
"""


def blocks(page):
    return [match.groupdict() for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def runs(block, slow):
    mark = block["mark"] or ""
    return not mark.startswith(("not run", "tests/")) and (slow or mark != "slow")


@pytest.fixture
def checkout(tmp_path):
    """A clone of the checkout with stand-ins, and programs python, qprompt and pip in a folder ``bin``."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not listed:
        pytest.skip("needs a git checkout")
    clone = tmp_path / "clone"
    for name in listed:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, clone / name)
    with open(clone / "qprompt/backbones/load.py", "a") as file:
        file.write(STAND_IN)
    for config in (clone / "configs/trainers").rglob("*.yaml"):
        text = re.sub(r"MAX_EPOCH: \d+", "MAX_EPOCH: 1", config.read_text())
        config.write_text(re.sub(r"NUM_WORKERS: \d+", "NUM_WORKERS: 0", text))
    rng = np.random.default_rng(0)
    for name in ("espresso", "green_tea", "latte"):
        (clone / "drinks" / name).mkdir(parents=True)
        for file in ("1.jpg", "2.jpg", "3.jpg", "4.jpg", "a.jpg", "b.jpg"):
            pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(clone / "drinks" / name / file)
    rows = [f"{name}/{i}.jpg,{name}" for name in ("espresso", "green_tea", "latte") for i in range(1, 5)]
    (clone / "list.csv").write_text("\n".join(["path,classname", *rows]))
    trees.build(clone / "DATA", "OxfordPets", content=trees.jpeg())
    programs = {"python": '"$@"', "qprompt": '-m qprompt "$@"'}
    (tmp_path / "bin").mkdir()
    for name, words in programs.items():
        write_program(tmp_path / "bin" / name, f"exec {python()} {words}")
    write_program(tmp_path / "bin/pip", '[ "$1" = install ]')
    return clone


def write_program(path, line):
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def run_page(page, checkout, slow=False):
    environment = {
        "HOME": str(checkout.parent),
        "PATH": f"{checkout.parent / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "MPLBACKEND": "agg",
    }
    for block in blocks(page):
        if not runs(block, slow):
            continue
        command = ["bash", "-euo", "pipefail", "-c"] if block["language"] == "bash" else [python(), "-c"]
        done = subprocess.run([*command, block["code"]], cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block['code']}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def parameters(slow):
    pages = [page for page in PAGES if slow or page.stem not in SLOW]
    names = [(page, any(runs(block, slow) for block in blocks(page))) for page in pages]
    return pytest.mark.parametrize("page", [p for p, used in names if used], ids=lambda page: page.stem)


@parameters(slow=False)
def test_blocks_run(page, checkout):
    run_page(page, checkout)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@parameters(slow=True)
def test_blocks_run_slowly(page, checkout):
    if page.stem in SLOW or any(block["mark"] == "slow" for block in blocks(page)):
        run_page(page, checkout, slow=True)
