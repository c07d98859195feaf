"""A small, fixed part of tools/fuzz_readers.py: every reader reads damaged files or refuses them with a UserError."""

import fuzz_readers
import pytest

from fuzzing import targets
from qprompt.engine import activate

if activate().name != "bundled":
    pytest.skip("the checkpoint reader is the bundled engine's", allow_module_level=True)

TARGETS = targets()


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr("qprompt.data.fewshot.missing_files", lambda *_: [])
    counts = fuzz_readers.fuzz(name, TARGETS[name], 60, 1, tmp_path)
    assert counts["refused"] and counts["read"]
