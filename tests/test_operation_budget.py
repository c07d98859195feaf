"""Budgets of a training step in the shapes of ViT-B/16 on a GPU: kernels, waits, and the attention that is chosen."""

import json

import pytest
from cuda_standin import library
from operation_counts import CASES, count_in_new_process

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not() or "it can run")
BUDGET = {"CoOp": 500, "CoOp, features kept": 300, "QMaPLe": 900}


def count(folder, numbers, sm=90):
    done = count_in_new_process(folder, "--json", "--only", *map(str, numbers), sm=sm)
    assert done.returncode == 0, done.stderr
    return dict(zip((CASES[number] for number in numbers), json.loads(done.stdout), strict=True))


def check(counts):
    for case, found in counts.items():
        operations = found["operations"]
        limit = BUDGET.get(f"{case.trainer}{', features kept' * case.features}", 10**9)
        assert sum(operations.values()) < (limit if case.precision == "fp16" else 2 * limit), operations
        assert list(found["synchronizations"].values()) == [1], found["synchronizations"]
        assert not {name for name in operations if "cudnn_attention" in name}
        assert operations["_scaled_dot_product_efficient_attention_backward"] == 12  # of text, with a mask
        if case.precision != "fp32" and not case.features:
            assert operations["_scaled_dot_product_flash_attention"] == 12  # of images
        # Sorted or atomic sums: the gradient of the rows of EOT only, each of which is there once.
        assert "index_put" not in operations and operations["index_add"] == 1


def test_budgets(tmp_path):
    check(count(tmp_path, [number for number, case in enumerate(CASES) if case.budgeted]))


@pytest.mark.slow
@pytest.mark.parametrize("sm", [80, 90])
def test_every_case(tmp_path, sm):
    check(count(tmp_path, range(len(CASES)), sm))
