"""The README's library example runs as it stands, and what the README points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_library_example_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"<!-- tests/test_readme.py runs this -->\n```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "pets.qprompt").stat().st_size <= 1000


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)", README))))
def test_link_leads_somewhere(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:configs|scripts)/[\w/.]+\.(?:yaml|sh)", README))))
def test_file_of_a_command_exists(path):
    assert (ROOT / path).is_file()


def test_settings_table_gives_the_true_defaults():
    from qprompt import QuantConfig

    config = QuantConfig()
    for names, defaults in re.findall(r"^\| (`[A-Z_`, ]+`) \| ([^|]+) \|", README, re.MULTILINE):
        for name, default in zip(re.findall(r"`([A-Z_]+)`", names), defaults.split(","), strict=False):
            if default.strip():
                assert str(getattr(config, name.lower())) == default.strip(), name
