"""A local stand-in of the Hugging Face Hub: the requests of huggingface_hub that create, fill and read a repository.

It keeps the content of files per repository in memory; a commit is a number.
"""

import base64
import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    def __init__(self):
        self.files = {}  # "user/name" -> {path: bytes}
        self.private = {}
        self.commits = []
        self.requests = []
        self.token = None  # what clients must send; None: anything


def handler(site):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", **headers):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_GET(self):
            site.requests.append((self.command, self.path))
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+).*", self.path)
            if not found:
                self.answer(404, {"error": "no such page"})
                return
            repo, revision, path = found.groups()
            if repo not in site.files:
                self.answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            elif revision not in ("main", *site.commits):
                self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            elif path not in site.files[repo]:
                self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            else:
                data = site.files[repo][path]
                self.answer(200, data, ETag=f'"{hash(data)}"', X_Repo_Commit=site.commits[-1])

        do_HEAD = do_GET

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            site.requests.append((self.command, self.path))
            if site.token and self.headers.get("Authorization") != f"Bearer {site.token}":
                self.answer(401, {"error": "Invalid username or password."})
                return
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
                if repo in site.files:
                    self.answer(409, {"error": "You already created this model repo", "url": self.url(repo)})
                    return
                site.files[repo], site.private[repo] = {}, asked.get("private") or asked.get("visibility")
                self.answer(200, {"url": self.url(repo), "id": repo})
            elif self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
                self.answer(200, {"files": files})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/?]+)(\?create_pr=1)?", self.path):
                repo = found[1]
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        site.files[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                site.commits.append(f"{len(site.commits) + 1:040x}")
                url = f"{self.url(repo)}/commit/{site.commits[-1]}"
                more = {"pullRequestUrl": f"{self.url(repo)}/discussions/1"} if found[3] else {}
                self.answer(200, {"success": True, "commitOid": site.commits[-1], "commitUrl": url, **more})
            else:
                self.answer(404, {"error": f"no such page: {self.path}"})

        def url(self, repo):
            return f"http://{self.headers['Host']}/{repo}"

    return Handler


@contextlib.contextmanager
def hub_site():
    """Yield the site and its address."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
