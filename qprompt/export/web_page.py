"""A classifier as a static web page: pictures in, classes and probabilities out, all in the browser.

Next to ``index.html`` lie scripts that hold the model and onnxruntime-web as base64, since a page that is opened from a
disk may load scripts, but no other files. The page loads nothing from anywhere else.
"""

import base64
import json
import os
import tempfile
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qprompt.errors import UserError
from qprompt.export.onnx_model import LARGEST_FILE, Agreement, check_exportable, check_exporter, write_onnx
from qprompt.export.web_runtime import Runtime, check_folder
from qprompt.prompt_files.classifier import Classifier

_INTERPOLATIONS = ("bilinear", "bicubic")  # of web/pixels.js
_PART = 12 * 2**20  # bytes per script
_TOP = 5
_WEB = Path(__file__).parent / "web"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:",
        "style-src 'unsafe-inline'",
        "img-src blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def write_page(
    classifier: Classifier, folder: str | os.PathLike[str], title: str, runtime: Runtime, pictures: object = None
) -> Agreement:
    """Write the page and its scripts into a new folder.

    Args:
        classifier: On the CPU.
        folder: Which appears only when it is complete.
        title: Of the page.
        runtime: Of onnxruntime-web.
        pictures: To compare the model with PyTorch on, see `write_onnx`.

    Raises:
        UserError: The folder is not free, or the classifier cannot run in a browser.
    """
    folder = Path(folder)
    check_folder(folder)
    check_exporter()
    check_exportable(classifier)
    _check_preprocessing(classifier)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:32]}.") as place:
        model, page = Path(place) / "model.onnx", Path(place) / "page"
        agreement = write_onnx(classifier, model, pictures, halve=True)
        if (Path(place) / "model.onnx.data").exists():
            raise UserError(f"the model has more than {LARGEST_FILE / 1e9:.1f} GB, which no browser loads: use --onnx.")
        page.mkdir()
        data = {"runtime": runtime.script, "wasm": runtime.wasm, "model": model.read_bytes()}
        files = {name: _write_parts(page, name, content) for name, content in data.items()}
        (page / "index.html").write_text(_html(classifier, title, files), encoding="utf-8")
        os.rename(page, folder)  # also onto an empty folder
    return agreement


def _check_preprocessing(classifier: Classifier) -> None:
    how = classifier.preprocess
    if how.interpolation not in _INTERPOLATIONS:
        raise UserError(f"the page resizes by {' or '.join(_INTERPOLATIONS)}, this prompt needs {how.interpolation}.")
    smallest = (how.resize, how.resize) if isinstance(how.resize, int) else how.resize
    if smallest[0] < how.size[0] or smallest[1] < how.size[1]:
        raise UserError(f"the page cannot crop {how.size} pixels from pictures that are resized to {how.resize}.")


def _write_parts(folder: Path, name: str, content: bytes) -> list[str]:
    names = []
    for number, start in enumerate(range(0, len(content), _PART), 1):
        names.append(f"{name}-{number}.js")
        text = base64.b64encode(content[start : start + _PART]).decode()
        (folder / names[-1]).write_text(f'qpromptPart("{text}");\n', encoding="ascii")
    return names


def _html(classifier: Classifier, title: str, files: dict[str, list[str]]) -> str:
    config = {
        "classnames": classifier.classnames,
        "preprocessing": classifier.preprocess.to_json(),
        "top": _TOP,
        "files": files,
    }
    environment = Environment(loader=PackageLoader("qprompt.export", "web"), autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("page.html")
    script = "\n".join((_WEB / name).read_text(encoding="utf-8") for name in ("pixels.js", "page.js"))
    return template.render(
        title=title,
        policy=_POLICY,
        classnames=classifier.classnames,
        about=_about(classifier),
        style=Markup((_WEB / "page.css").read_text(encoding="utf-8")),
        config=Markup(json.dumps(config).replace("<", "\\u003c")),
        script=Markup(script),
    )


def _about(classifier: Classifier) -> str:
    about = classifier.about
    parts = [f"{about.get('method', 'A prompt')} on {about.get('backbone') or 'CLIP'}"]
    parts.append(f"learned prompt of {classifier.payload_bytes:,} bytes")
    if classifier.accuracy is not None:
        parts.append(f"test accuracy {classifier.accuracy:.1f}%")
    return ", ".join(parts) + ". Runs on onnxruntime-web."
