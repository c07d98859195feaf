"""docs/api.md is what the docstrings say."""

import subprocess
import sys
from pathlib import Path

import qprompt

ROOT = Path(__file__).resolve().parent.parent


def test_the_reference_is_current():
    command = [sys.executable, str(ROOT / "scripts" / "make_api_docs.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_public_name_has_an_entry():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in qprompt.__all__ if name != "__version__" and f"### **qprompt.** `{name}`" not in page]
    assert not missing
