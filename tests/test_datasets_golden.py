"""Items, labels, class names, order and draws equal those of CoOp's data set files: 15 data sets, 2,700 settings.

The golden file holds digests of upstream's results on the trees of `trees.build`. If QPROMPT_COOP and QPROMPT_DASSL are
set to checkouts, upstream runs again and is compared too. ``python tests/test_datasets_golden.py`` writes the file from
these checkouts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trees
import upstream_datasets as upstream

from qprompt.data import fewshot
from qprompt.data.layouts import LAYOUTS

GOLDEN = Path(__file__).parent / "golden" / "datasets.json"
MODES = ("fresh", "nosplit", "history")


def build_all(root: Path, mode: str) -> dict[str, Path]:
    return {name: trees.build(root, name, split=mode == "fresh") for name in trees.DATASETS}


def ours(root: Path):
    def load(name: str, shots: int, seed: int, subset: str) -> str:
        source = LAYOUTS[name].source(root)
        below = source.image_dir.relative_to(root).as_posix()
        split = fewshot.load(source, shots, seed, subset)
        return upstream.digest(*([(f"{below}/{i.path}", i.label, i.classname) for i in part] for part in split))

    return load


def theirs(root: Path, mode: str) -> dict[str, str]:
    script = Path(upstream.__file__)
    command = [sys.executable, str(script), os.environ["QPROMPT_COOP"], os.environ["QPROMPT_DASSL"], str(root), mode]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def packed(results: dict[str, str]) -> dict[str, str]:
    """One line per data set and number of shots: the digests of all seeds and subsets."""
    lines: dict[str, list[str]] = {}
    for key, value in results.items():
        name, shots, _, _ = key.split("/")
        lines.setdefault(f"{name}/{shots}", []).append(value)
    return {key: " ".join(values) for key, values in lines.items()}


@pytest.mark.parametrize("shots", [(1, 16), pytest.param((2, 4, 8), marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", MODES)
def test_every_setting_equals_upstream(tmp_path, mode, shots):
    folders = build_all(tmp_path, mode)
    results = dict(upstream.sweep(folders, mode, ours(tmp_path), shots))
    assert len(results) == 15 * len(shots) * 4 * 3
    golden = json.loads(GOLDEN.read_text())[mode]
    differing = [key for key, line in packed(results).items() if line != golden[key]]
    assert not differing


needs_upstream = pytest.mark.skipif(
    not (os.environ.get("QPROMPT_COOP") and os.environ.get("QPROMPT_DASSL")),
    reason="QPROMPT_COOP and QPROMPT_DASSL are not set",
)


@pytest.mark.slow
@needs_upstream
@pytest.mark.parametrize("mode", MODES)
def test_golden_file_equals_upstream(tmp_path, mode):
    build_all(tmp_path, mode)
    assert packed(theirs(tmp_path, mode)) == json.loads(GOLDEN.read_text())[mode]


@pytest.mark.slow
@needs_upstream
def test_cached_draws_of_upstream_are_used_after_a_move(tmp_path, caplog):
    old, new = tmp_path / "old", tmp_path / "new"
    build_all(old, "history")
    expected = theirs(old, "history")  # writes split files, pickled draws (16 shots) and ImageNet's listing
    old.rename(new)
    load = ours(new)
    drawn = [name for name in trees.DATASETS if not LAYOUTS[name].test_only]
    for name in drawn:
        for seed in upstream.SEEDS:
            for subset in upstream.SUBSETS:
                assert load(name, 16, seed, subset) == expected[f"{name}/16/{seed}/{subset}"]
    assert caplog.text.count("Using the few-shot draw in") == len(drawn) * 12
    assert not list(new.rglob("shot_*.json"))


if __name__ == "__main__":
    import tempfile

    found = {}
    for kind in MODES:
        with tempfile.TemporaryDirectory() as folder:
            build_all(Path(folder), kind)
            found[kind] = packed(theirs(Path(folder), kind))
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
