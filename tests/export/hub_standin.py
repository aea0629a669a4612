"""A stand-in for the Hugging Face hub's write interface on this machine: repositories, branches, commits."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class HubStandIn:
    """What was uploaded, by branch: path -> bytes. Refuses a commit to a branch that was not made.

    Attributes:
        refuse: Status with which the next commits are answered; None to take them.
    """

    def __init__(self, token: str) -> None:
        self.token, self.refuse = token, None
        self.private: bool | None = None
        self.branches: dict[str, dict[str, bytes]] = {}
        self.commits: list[tuple[str, str]] = []
        self.endpoint = ""

    def answer(self, method: str, path: str, body: bytes, authorization: str | None) -> tuple[int, Any]:
        if authorization != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.private = asked.get("private", asked.get("visibility") == "private")
            self.branches.setdefault("main", {})
            return 200, {"url": f"{self.endpoint}/{asked['organization']}/{asked['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            self.branches.setdefault(unquote(match[2]), {})
            return 200, {}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return 200, {"files": [{**file, "shouldIgnore": False} for file in files]}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self._commit(unquote(match[2]), [json.loads(line) for line in body.splitlines() if line])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            files = self.branches.get(unquote(match[2]), {})
            return 200, [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
            return 200, {"id": match[1], "sha": "0" * 40, "siblings": [], "private": True, "tags": []}
        return 404, {"error": f"the stand-in has no {method} {path}"}

    def _commit(self, branch: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        if self.refuse is not None:
            return self.refuse, {"error": "planted"}
        for line in lines:
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                self.branches[branch][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "header":
                self.commits.append((branch, line["value"]["summary"]))
        done = {"success": True, "commitOid": "0" * 40, "hookOutput": ""}
        return 200, {**done, "commitUrl": f"{self.endpoint}/me/model/commit/{'0' * 40}"}


@contextmanager
def serving(token: str) -> Iterator[HubStandIn]:
    """A stand-in that listens on this machine alone."""
    hub = HubStandIn(token)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            status, content = hub.answer(self.command, path, body, self.headers.get("authorization"))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
