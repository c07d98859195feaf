"""Downloads of CLIP weights: verified, resumed, complete or absent, from a mirror."""

import hashlib
import http.server
import threading

import pytest

from qprompt.backbones import weights
from qprompt.errors import UserError

CONTENT = bytes(range(256)) * 400
HASH = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's `ranges`, `cut` and `asked` say how to answer, and what was requested."""

    def do_GET(self):
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.server.ranges else 0
        self.server.asked.append((self.path, self.headers["Range"]))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if self.server.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    served = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    served.ranges, served.cut, served.asked = True, None, []
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(weights, "CACHE", tmp_path)
    monkeypatch.setenv(weights.MIRROR, f"http://127.0.0.1:{served.server_port}/mirror/")
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def files_in(folder):
    """Names of all files but the lock, which stays."""
    names = sorted(path.name for path in folder.iterdir())
    assert names.pop(0) == ".x.pt.lock"
    return names


def fetch(expected=HASH):
    return weights.openai_file("ViT-X", f"https://example.invalid/clip/{expected}/x.pt")


def test_file_is_downloaded_once_from_a_mirror(server, tmp_path):
    path = fetch()
    assert path.read_bytes() == CONTENT and files_in(tmp_path) == ["x.pt"]
    assert server.asked == [(f"/mirror/{HASH}/x.pt", "bytes=0-")]
    assert fetch() == path and len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_resumes(server, tmp_path, ranges):
    server.ranges, server.cut = ranges, 70_000
    with pytest.raises(UserError, match=r"ended 32,400 bytes too early.*70,000 bytes were received and kept"):
        fetch()
    assert files_in(tmp_path) == [".x.pt.part"]
    server.cut = None
    assert fetch().read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=70000-"
    assert files_in(tmp_path) == ["x.pt"]


def test_complete_part_needs_no_more_bytes(server, tmp_path):
    (tmp_path / ".x.pt.part").write_bytes(CONTENT)
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"", b"something else", b"x" * 200_000])
def test_wrong_bytes_are_not_kept(server, tmp_path, left):
    (tmp_path / ".x.pt.part").write_bytes(left)
    with pytest.raises(UserError, match="SHA-256"):
        fetch("0" * 64)
    assert not files_in(tmp_path)


def test_local_file_with_other_content_is_refused_and_kept(server, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"mine")
    with pytest.raises(UserError, match="not OpenAI's ViT-X"):
        fetch()
    assert (tmp_path / "x.pt").read_bytes() == b"mine" and not server.asked


def test_failed_download_names_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "CACHE", tmp_path)
    monkeypatch.setenv(weights.MIRROR, "http://127.0.0.1:1/")
    with pytest.raises(UserError, match="could not be downloaded.*MODEL.BACKBONE.PATH.*QPROMPT_CLIP_MIRROR"):
        fetch()
