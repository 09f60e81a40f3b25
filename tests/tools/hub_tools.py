"""A stand-in for the Hugging Face hub, on this machine, for tests."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from huggingface_hub import constants

SHA = "5" * 40


class StandIn(BaseHTTPRequestHandler):
    """Answers as the hub does to what a push and a download ask of it."""

    files: dict[str, dict[str, bytes]] = {}  # Repository -> name -> content.

    @property
    def address(self):
        return f"http://{self.headers['Host']}"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            made = json.loads(body)
            name = "/".join(filter(None, (made.get("organization"), made["name"])))
            self.files.setdefault(name, {})
            self.answer({"url": f"{self.address}/{name}"})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            names = [file["path"] for file in json.loads(body)["files"]]
            kinds = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False}
                for name in names
            ]
            self.answer({"files": kinds})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[match[1]][line["value"]["path"]] = content
            url = f"{self.address}/{match[1]}/commit/{SHA}"
            self.answer({"commitUrl": url, "commitOid": SHA})
        else:
            self.answer({"error": "unknown"}, 404)

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            if match[1] not in self.files:
                return self.answer({"error": "Repository not found"}, 404)
            names = [{"rfilename": name} for name in self.files[match[1]]]
            self.answer({"id": match[1], "sha": SHA, "siblings": names})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path):
            entries = [
                {"type": "file", "path": name, "size": len(value), "oid": SHA}
                for name, value in self.files[match[1]].items()
            ]
            self.answer(entries)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.files[match[1]][match[2]]
            tag = hashlib.sha1(content).hexdigest()
            self.answer(content, headers={"X-Repo-Commit": SHA, "ETag": f'"{tag}"'})
        else:
            self.answer({"error": "unknown"}, 404)

    do_HEAD = do_GET

    def answer(self, content, code=200, headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def stand_in(monkeypatch, cache):
    """Let the hub's client talk to the stand-in, and keep what it loads in `cache`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    try:
        yield
    finally:
        server.shutdown()
        StandIn.files.clear()
