"""An imitation of the Hugging Face hub on the loopback: what huggingface_hub asks to upload and fetch models."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_test"


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 1

    @property
    def sha(self) -> str:
        return f"{self.commits:040x}"


@dataclass
class Hub:
    """Repositories by name, requests ("GET /path"), and answers (method and start of a path -> status) that fail."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)
    address: str = ""


@contextmanager
def hub_on_the_loopback():
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status: int, content: dict | bytes, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _failed(self) -> bool:
        asked = f"{self.command} {self.path}"
        self.hub.asked.append(asked)
        for start, status in self.hub.failing.items():
            if asked.startswith(start):
                self._answer(status, {"error": "as the test wants"})
                return True
        return False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self._failed():
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "no token"})
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            there = name in self.hub.repositories
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.hub.repositories.setdefault(name, Repository(private))
            self._answer(409 if there else 200, {"url": f"{self.hub.address}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer(200, {"files": modes})
        else:
            self._commit(re.fullmatch(r"/api/models/(.+)/commit/main", self.path)[1], body)

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        repository.commits += 1
        page = f"{self.hub.address}/{name}/commit/{repository.sha}"
        self._answer(200, {"success": True, "commitOid": repository.sha, "commitUrl": page})

    def do_GET(self):
        if self._failed():
            return
        path = self.path.split("?")[0]
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+).*", path) or re.fullmatch(
            r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path
        )
        repository = self.hub.repositories.get(match[1])
        if repository is None or (repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self._answer(401, {"error": "not found"}, X_Error_Code="RepoNotFound")
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in repository.files]
            self._answer(
                200, {"id": match[1], "sha": repository.sha, "private": repository.private, "siblings": siblings}
            )
        elif match[2] not in repository.files:
            self._answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=repository.sha)
        else:
            data = repository.files[match[2]]
            self._answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=repository.sha)

    do_HEAD = do_GET
