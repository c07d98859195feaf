"""The data set class of docs/your_data.md, and the table of data sets."""

import re
from pathlib import Path

from dassl.config import get_cfg_default

from qprompt.data.layouts import LAYOUTS
from qprompt.data.templates import template

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")


def test_custom_data_set_class(tmp_path):
    for path in ("latte/a.jpg", "espresso/b.jpg"):
        (tmp_path / "drinks" / path).parent.mkdir(parents=True)
        (tmp_path / "drinks" / path).touch()
    code = {"__name__": "drinks"}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[-1], code)
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
