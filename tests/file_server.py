"""A web server on this machine that gives a file in the ways in which real ones do, and in those in which they fail."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

REPOSITORY = "someone/weights"  # that the imitation of the hub has


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `content` under paths whose first part says how: /plain/x.pth, /stall/x.pth (see `_Handler.do_GET`).

    Attributes:
        content: the bytes of the file.
        version: its ETag.
        requests: method, path and Range header of each request so far.
        release: ends the waiting of stalled answers.
    """

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.version = content, '"first"'
        self.requests: list[tuple[str, str, str | None]] = []
        self.release = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.requests.append((self.command, self.path, self.headers["Range"]))
        self.close_connection = True
        _, way, *rest = self.path.split("/")
        if way in ("404", "403"):
            self.send_error(int(way))
        elif way == "redirect":
            self._headers(302, {"Location": "/".join(["/ranges", *rest]), "Content-Length": "0"})
        elif way == "page":
            self._send(b"<!DOCTYPE html><title>Quota exceeded</title>", {"Content-Type": "text/html"}, body)
        elif way == "hidden_page":  # as Google Drive's are, to programs
            self._send(b"<!DOCTYPE html><title>Quota exceeded</title>", {}, body)
        elif way == "slow_start":
            self.server.release.wait(20)
        elif self.path.startswith(f"/{REPOSITORY}/resolve/main/known."):
            head = {"X-Repo-Commit": "a" * 40, "ETag": self.server.version}
            self._send(self.server.content, head, body)
        elif way == REPOSITORY.split("/")[0]:
            self._headers(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "a" * 40, "Content-Length": "0"})
        elif way == "api" or way == "nobody":
            self._headers(401, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"})
        else:
            self._file(way, body)

    def _file(self, way: str, body: bool) -> None:
        content, headers = self.server.content, {}
        start, status = 0, 200
        asked = self.headers["Range"]
        if way != "plain":
            headers = {"ETag": self.server.version, "Accept-Ranges": "bytes"}
            if asked and self.headers["If-Range"] in (None, self.server.version):
                start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                if start >= len(content):
                    self._headers(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                    return
        half = {"cut": 3, "stall": 2, "cut_once": 0 if start else 2}.get(way, 0)
        end = start + (len(content) - start) // half if half else None
        self._headers(status, headers | {"Content-Length": str(len(content) - start)})
        if body:
            self.wfile.write(content[start:end])
            self.wfile.flush()
        if way == "stall":
            self.server.release.wait(20)

    def _send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self._headers(200, headers | {"Content-Length": str(len(content))})
        if body:
            self.wfile.write(content)

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()


@contextmanager
def file_server(content: bytes) -> Iterator[FileServer]:
    """A running server."""
    server = FileServer(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
