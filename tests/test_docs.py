"""The documentation: what it names exists, its examples run, and its site builds."""

import ast
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dassl.config import get_cfg_default

from qprompt.__main__ import main
from qprompt.training.defaults import extend_cfg

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "tools/README.md"]
FOLDERS = "qprompt|trainers|datasets|configs|scripts|tests|tools|benchmarks|docs|examples"
every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def text(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """The anchors of the headings, as Markdown's toc extension makes them."""
    without_code = re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def bash_lines(page):
    blocks = re.findall(r"```bash\n(.*?)```", text(page), re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


@every_page
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r"\]\(((?!https?:)[^)#\s]*)(?:#([^)\s]+))?\)", text(page)):
        linked = page.parent / target if target else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


@every_page
def test_paths_exist(page):
    for path in set(re.findall(rf"(?<![\w/.<-])(?:{FOLDERS})/[\w./+-]*[\w/]", text(page))):
        placeholder = re.search(r"/[A-Z]+(\.|/|$)", path)  # configs/sweeps/ablations/SPEC.yaml
        assert placeholder or (ROOT / path).exists(), path


@every_page
def test_names_of_the_library_exist(page):
    for name in set(re.findall(r"(?<![\w./])qprompt\.\w+(?:\.\w+)*", text(page))):
        pkgutil.resolve_name(name)


@every_page
def test_config_keys_exist(page):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for key in set(re.findall(rf"\b(?:{'|'.join(cfg)})(?:\.[A-Z_]+)+\b(?!\.\*)", text(page))):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


@every_page
def test_environment_variables_exist(page):
    code = "".join(text(path) for folder in ("qprompt", "tests") for path in (ROOT / folder).rglob("*.py"))
    for name in set(re.findall(r"QPROMPT_[A-Z_]+", text(page))):
        assert name in code, name


@every_page
def test_commands_take_the_options(page, capsys):
    for line in bash_lines(page):
        if line.startswith("qprompt ") and not line.startswith("qprompt --"):
            with pytest.raises(SystemExit):
                main([line.split()[1], "--help"])
            known = capsys.readouterr().out
            assert all(option in known for option in re.findall(r"(?<= )--[\w-]+", line)), line


def test_architecture_shows_every_package():
    tree = re.search(r"```\n(.*?)```", text(ROOT / "docs/internals/architecture.md"), re.DOTALL)[1]
    shown = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    assert shown == {folder.parent.name for folder in (ROOT / "qprompt").glob("*/__init__.py")}


def test_settings_table_gives_the_true_defaults():
    from qprompt import QuantConfig

    settings = QuantConfig()
    table = re.findall(r"^\| (`[A-Z_`, ]+`) \|([^|]*)\|", text(ROOT / "docs/quantization.md"), re.MULTILINE)
    described = {}
    for names, defaults in table:
        names = re.findall(r"`(\w+)`", names)
        described.update(zip(names, defaults.strip().split(", ") * len(names), strict=False))
    assert set(described) == {name.upper() for name in QuantConfig.__dataclass_fields__}
    for name, default in described.items():
        assert default == str(getattr(settings, name.lower())).replace("()", ""), name


def test_site_builds_without_warnings_and_needs_no_other_host(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs mkdocs: pip install -e '.[docs]'")
    pytest.importorskip("material", reason="needs mkdocs: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = [text(page) for page in tmp_path.rglob("*.html")]
    assert any("qprompt.quantize_" in page for page in pages)
    for page in pages:
        assert not re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", page)


def message(node):
    """The text of a string expression, with "\0" for each value in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(message, node.values))
    if isinstance(node, ast.BinOp):
        return message(node.left) + message(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "\0"


def test_messages_of_the_troubleshooting_page_exist():
    sources = [*ROOT.glob("qprompt/**/*.py"), *ROOT.glob("trainers/*.py"), ROOT / "train.py"]
    trees = [ast.parse(text(source)) for source in sources]
    messages = {message(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr)}
    page = text(ROOT / "docs/troubleshooting.md")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 40
    missing = []
    for quote in quoted:
        pattern = ".*".join(map(re.escape, filter(None, quote.split("..."))))
        if not any(re.search(pattern, candidate, re.DOTALL) for candidate in messages):
            missing.append(quote)
    assert not missing
