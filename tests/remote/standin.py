"""Runs the unmodified Modal client and the real container runtime on this machine, without an account.

``StandIn`` is a loopback server (:mod:`standin_server`), a folder for its volumes, and two Python
environments made of links into this one: the *laptop* holds what ``pip install modal`` brings and
nothing else, the *container* holds everything except this project. What is proved with it is proved
about the client, the runtime and this project's code; the server's behaviour is what Modal documents.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpclib.server
import modal
from aiohttp import web

from tests.remote.standin_containers import Container, Rules
from tests.remote.standin_server import Call, Server, as_grpc_service
from tests.remote.standin_storage import BLOCK

WRITTEN_FOR = ">=1.6,<1.7"


def check_client_version() -> None:
    """The stand-in answers the calls of one line of clients; say so when the client moves on."""
    if tuple(int(part) for part in modal.__version__.split(".")[:2]) != (1, 6):
        raise AssertionError(
            f"the Modal stand-in is written for modal{WRITTEN_FOR}, and modal {modal.__version__} is installed: "
            "read the client's release notes, bring tests/remote/standin_server.py up to date, then raise WRITTEN_FOR"
        )


def link_packages(folder: Path, distributions: set[str] | None, leave_out: tuple[str, ...] = ()) -> Path:
    """A folder of links to installed packages: those of ``distributions``, or all but ``leave_out``."""
    folder.mkdir()
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name in leave_out or (distributions is not None and name not in distributions):
            continue
        for file in distribution.files or []:
            top = file.parts[0]
            if top in ("..", "__pycache__") or top.endswith(".pth") or (folder / top).is_symlink():
                continue
            with suppress(FileNotFoundError):
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))).resolve(strict=True))
    return folder


def closure(name: str) -> set[str]:
    """A distribution and everything it requires."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [re.split(r"[^\w.-]", text)[0] for text in requires if "extra ==" not in text]
    return found


@dataclass(frozen=True)
class Environments:
    """Folders of packages, to be put on ``PYTHONPATH``."""

    laptop: Path
    container: Path


def make_environments(folder: Path) -> Environments:
    """The laptop has what ``pip install modal`` brings, the containers have everything but this project."""
    laptop = link_packages(folder / "laptop", closure("modal"))
    return Environments(laptop, link_packages(folder / "container", None, leave_out=("emergence",)))


class StandIn:
    """A Modal server on the loopback interface; use as a context manager.

    Args:
        folder: Empty; holds volumes and containers.
        environments: Packages of the laptop and of the containers (:func:`make_environments`).
    """

    def __init__(self, folder: Path, environments: Environments) -> None:
        check_client_version()
        self.folder = folder
        self.laptop = environments.laptop
        self.rules = Rules(site=environments.container)
        self.home = folder / "home"
        self.home.mkdir()
        self.dropped_downloads = 0
        self.downloads = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="modal-stand-in")
        self.server = Server(folder, lambda server, call: Container(server, call, self.rules))

    def __enter__(self) -> StandIn:
        self._thread.start()
        self._await(self._start())
        return self

    def __exit__(self, *error: object) -> None:
        self._await(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> None:
        self._grpc = grpclib.server.Server([as_grpc_service(self.server)])
        await self._grpc.start("127.0.0.1", 0)
        listening: Any = self._grpc._server
        self.server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        application = web.Application()
        application.router.add_get("/{volume}/{path:.*}", self._block)
        self._web = web.AppRunner(application)
        await self._web.setup()
        site = web.TCPSite(self._web, "127.0.0.1", 0)
        await site.start()
        self.server.blocks_url = f"http://127.0.0.1:{self._web.addresses[0][1]}"

    async def _stop(self) -> None:
        for call in self.server.calls.values():
            call.stopped = True
            for container in call.containers:
                container.kill()
        await asyncio.gather(*self.server.tasks, return_exceptions=True)
        self._grpc.close()
        await self._grpc.wait_closed()
        await self._web.cleanup()

    async def _block(self, request: web.Request) -> web.StreamResponse:
        """One block of a file; the first ``dropped_downloads`` answers break off in the middle."""
        path = self.server.volumes[request.match_info["volume"]].folder / request.match_info["path"]
        start = int(request.query["start"])
        body = path.read_bytes()[start : start + BLOCK]
        self.downloads += 1
        if self.dropped_downloads > 0:
            self.dropped_downloads -= 1
            answer = web.StreamResponse(headers={"Content-Length": str(len(body))})
            await answer.prepare(request)
            await answer.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.abort()
            return answer
        return web.Response(body=body)

    # The client ---------------------------------------------------------------------------------------

    def environment(self, token: bool = True) -> dict[str, str]:
        """What a laptop's shell has: a token, and a Python with the Modal client alone."""
        tokens = {"MODAL_TOKEN_ID": "ak-stand-in", "MODAL_TOKEN_SECRET": "as-stand-in"} if token else {}
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            "PYTHONPATH": str(self.laptop),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MODAL_SERVER_URL": self.server.url,
            "MODAL_LOGS_TIMEOUT": "2",
            "COLUMNS": "200",
            "TERM": "dumb",
            **tokens,
        }

    def start(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
        """``modal ARGUMENTS`` in the background."""
        return subprocess.Popen(
            [sys.executable, "-S", "-m", "modal", *arguments],
            env={**self.environment(), **environment},
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def modal(
        self, *arguments: str, cwd: Path, timeout: float = 400, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """``modal ARGUMENTS`` to its end."""
        process = self.start(*arguments, cwd=cwd, **environment)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"modal {arguments} hung\n{out}\n{err}\n{self.container_output()}") from None
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    # What tests look at ---------------------------------------------------------------------------------

    def volume(self, name: str) -> Path:
        """The committed content of a volume."""
        return self.folder / "volumes" / name

    def containers(self, function: str | None = None) -> list[Container]:
        return [c for c in self.server.containers.values() if function in (None, c.name)]

    def calls(self, function: str) -> list[Call]:
        return [c for c in self.server.calls.values() if c.function.definition.function_name == function]

    def most_at_once(self, function: str) -> int:
        """The largest number of a function's containers that ran side by side."""
        spans = [(c.began, c.ended) for c in self.containers(function)]
        return max((sum(began <= start < ended for began, ended in spans) for start, _ in spans), default=0)

    def container_output(self) -> str:
        return "".join(f"--- {c.task_id} {c.name}\n{c.text}" for c in self.containers())

    def once(self, number: signal.Signals, when: Callable[[Container], bool]) -> None:
        """Send one signal to the first container for which ``when`` holds."""
        sent: list[str] = []

        def interfere(container: Container) -> signal.Signals | None:
            if sent or not when(container):
                return None
            sent.append(container.task_id)
            return number

        self.rules.interfere = interfere
