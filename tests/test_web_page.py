"""The exported web page, in headless Chromium: the same classes and probabilities as the classifier's."""

import base64
import functools
import http.server
import json
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

import qprompt
from qprompt.__main__ import main
from qprompt.data.preprocessing import Preprocessing
from qprompt.errors import UserError
from qprompt.export import web_runtime
from qprompt.export.onnx_model import exporter_is_current

OLD = Path(__file__).parent / "golden/run_0.1/finished/prompt_learner/prompt.qprompt"
PIXELS = Path(web_runtime.__file__).parent / "web/pixels.js"
CLASSES = ["red circle", "blue square", '<b>bold & "quoted"</b>', "ship", "dog", "tree"]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=900,900"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of the exporter


# ---- preprocessing, in Node.js

SIZES = [(50, 40), (400, 30), (30, 400), (48, 48), (1, 1), (5, 700), (333, 257), (47, 49)]  # width, height
HOW = [
    Preprocessing.of_clip(48),
    Preprocessing((33, 20), 35, "bilinear"),
    Preprocessing((30, 41), (31, 45), "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)),
]


def test_pixels_equal_pillows(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    rng, cases, expected = np.random.default_rng(0), [], []
    for width, height in SIZES:
        rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        rgba[: height // 2] = rng.integers(0, 2, (height // 2, width, 4)) * 255  # overshoots, which are clamped
        rgba.tofile(tmp_path / f"{width}x{height}")
        for how in HOW:
            cases.append({"file": f"{width}x{height}", "width": width, "height": height, "how": how.to_json()})
            expected.append(how(Image.fromarray(rgba[..., :3].copy())))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    program = PIXELS.read_text() + (
        'const fs = require("fs");\n'
        'const out = JSON.parse(fs.readFileSync("cases.json")).map(({ file, width, height, how }) =>\n'
        "  Buffer.from(preprocess(fs.readFileSync(file), width, height, how).buffer));\n"
        'fs.writeFileSync("out", Buffer.concat(out));\n'
    )
    subprocess.run([node, "-e", program], cwd=tmp_path, check=True)
    got = torch.from_numpy(np.fromfile(tmp_path / "out", np.float32)).split([tensor.numel() for tensor in expected])
    exact = int(PIL.__version__.split(".")[0]) >= 13  # earlier ones resize tall images in another order
    for case, one, tensor in zip(cases, got, expected, strict=True):
        level = 1.01 / 255 / min(case["how"]["std"])
        assert torch.allclose(one.view_as(tensor), tensor, rtol=0, atol=0 if exact else level), case


# ---- the page


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """The folder of the npm package."""
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "pack", web_runtime.PACKAGE, "--fetch-retries=0", "--pack-destination", str(folder)]
    if shutil.which("npm") is None or subprocess.run(command, cwd=folder, capture_output=True).returncode:
        pytest.skip(f"needs npm and {web_runtime.PACKAGE}")
    with tarfile.open(folder / web_runtime.ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def page(runtime, tmp_path_factory):
    """The exported page and its classifier."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs pip install -e '.[onnx]'")
    if not exporter_is_current():
        pytest.skip("this PyTorch has an older ONNX exporter")
    folder = tmp_path_factory.mktemp("page")
    clf = qprompt.load_classifier(OLD, CLASSES)
    clf.save(folder / "my_shapes.qprompt")
    archive = str(runtime / web_runtime.ARCHIVE)
    assert main(["export", str(folder / "my_shapes.qprompt"), "--web", str(folder / "web"), "--runtime", archive]) == 0
    return folder / "web", clf


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Pictures of several kinds, and a file that is none."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).resize((400, 500), Image.BICUBIC)
    colours.save(folder / "photo.png")
    turned = Image.Exif()
    turned[274] = 6
    colours.crop((0, 0, 400, 200)).save(folder / "turned.jpg", quality=95, exif=turned)
    colours.resize((90, 60)).convert("L").save(folder / "grey.webp", lossless=True)
    clear = colours.resize((70, 70)).convert("RGBA")
    clear.putalpha(Image.fromarray(rng.integers(0, 2, (70, 70), dtype=np.uint8) * 255))
    clear.save(folder / "clear.png")
    (folder / "broken.png").write_bytes(b"\x89PNG no picture")
    return folder


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs pip install selenium")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs Chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


def element(browser, id):
    return browser.find_element("id", id)


def wait(browser, done, what):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60, 0.05).until(lambda _: done(), what)


def open_page(browser, url):
    browser.get(url)
    wait(browser, lambda: not element(browser, "status").text.startswith("Loading"), "loading")


def shown(browser, count):
    """Wait for `count` results and return those with classes: name of the file -> [(class, probability), ...]."""
    wait(browser, lambda: len(browser.find_elements("css selector", ".card")) >= count, f"{count} results")
    script = """return [...document.querySelectorAll(".card")].map((card) => [card.querySelector("h2").textContent,
      [...card.querySelectorAll(".class")].map((row) => [row.dataset.name, Number(row.dataset.probability)])])"""
    return {name: list(map(tuple, classes)) for name, classes in browser.execute_script(script)}


def requests(browser):
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def server(page):
    """The address of the page on a web server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=page[0])
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


def test_page_from_a_disk(page, pictures, browser):
    """Pictures are classified as by the classifier, and nothing comes from elsewhere."""
    folder, clf = page
    requests(browser)
    open_page(browser, (folder / "index.html").as_uri())
    assert element(browser, "status").text == "Ready"
    assert browser.title == "my shapes"
    paths = sorted(pictures.iterdir())
    element(browser, "files").send_keys("\n".join(map(str, paths)))
    results = shown(browser, len(paths))
    assert results.pop("broken.png") == []
    assert "cannot read it as a picture" in element(browser, "results").text
    assert results.keys() == {path.name for path in paths} - {"broken.png"}
    for name, ranking in results.items():
        expected = clf.predict(pictures / name, top=5)[0].ranking
        lossy = name.endswith("jpg")  # Pillow and the browser may decode it differently
        assert len(ranking) == 5
        for (label, probability), (name_expected, expected_probability) in zip(ranking, expected, strict=True):
            assert lossy or label == name_expected
            assert probability == pytest.approx(expected_probability, abs=0.02 if lossy else 1e-4)
    assert all(request.startswith((folder.as_uri(), "blob:", "data:")) for request in requests(browser))
    assert [e["message"] for e in browser.get_log("browser") if "broken.png" not in e["message"]] == []
    check_appearance(browser)


def check_appearance(browser):
    """The page fits small and dark screens, and assistive technology can read it."""
    small = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", small)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    colours = set()
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        colours.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    assert element(browser, "files").accessible_name.startswith("Choose pictures")
    assert element(browser, "status").aria_role == "status"
    assert browser.execute_script("return document.documentElement.lang") == "en"
    headings = [heading.tag_name for heading in browser.find_elements("css selector", "h1, h2")]
    assert headings[0] == "h1" and set(headings[1:]) == {"h2"}


def test_pictures_are_dropped_on_a_page_from_a_server(server, page, pictures, browser):
    _, clf = page
    requests(browser)
    open_page(browser, server)
    data = base64.b64encode((pictures / "photo.png").read_bytes()).decode()
    browser.execute_script(
        """const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
        const drop = document.getElementById("drop");
        for (const kind of ["dragenter", "dragover", "drop"])
          drop.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));""",
        data,
    )
    ranking = shown(browser, 1)["dropped.png"]
    best = clf.predict(pictures / "photo.png")[0]
    assert ranking[0] == (best.label, pytest.approx(best.probability, abs=1e-4))
    wait(browser, lambda: element(browser, "status").text.startswith(f"dropped.png: {best.label}, "), "the status")
    assert all(request.startswith((server, "blob:", "data:")) for request in requests(browser))


def test_a_missing_file_is_named(page, browser, tmp_path):
    broken = Path(shutil.copytree(page[0], tmp_path / "page"))
    (broken / "model-1.js").unlink()
    open_page(browser, (broken / "index.html").as_uri())
    assert element(browser, "status").text == "The model cannot be loaded. model-1.js is missing beside this page."


# ---- the export


def test_runtime_is_found_where_it_is_unpacked(runtime, monkeypatch):
    expected = web_runtime.find_runtime(str(runtime / web_runtime.ARCHIVE))
    assert web_runtime.find_runtime(str(runtime)) == web_runtime.find_runtime(str(runtime / "package")) == expected
    installed = runtime / "project/node_modules/onnxruntime-web"
    installed.parent.mkdir(parents=True)
    shutil.copytree(runtime / "package", installed)
    monkeypatch.chdir(runtime / "project")
    monkeypatch.setenv("PATH", "")
    assert web_runtime.find_runtime() == expected


def test_missing_runtime_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.tgz").write_bytes(b"no archive")
    for given in ("nowhere", str(tmp_path), str(tmp_path / "other.tgz")):
        with pytest.raises(UserError, match=f"--runtime .* does not hold .* 'npm pack {web_runtime.PACKAGE}'"):
            web_runtime.find_runtime(given)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=f"npm is not installed. Type 'npm pack {web_runtime.PACKAGE}'"):
        web_runtime.find_runtime()
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm could not fetch .*: npm error code ENOTFOUND. Type"):
        web_runtime.find_runtime()


def test_folder_in_use_is_refused_first(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="needs pip install -e '.[onnx]'")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    assert main(["export", str(OLD), "--classes", "a,b", "--web", str(tmp_path / "used")]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
