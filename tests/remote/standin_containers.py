"""Containers of the stand-in: the real Modal container runtime as a local process, in a folder of its own.

The folder is the container's file system root as far as the program under test is concerned
(``EMERGENCE_CONTAINER_ROOT``). It holds the mounted source files and nothing else of this project,
so a missing mount is an import error; and a *copy* of each volume as it was committed when the
container started, so a missing commit is lost work. A volume's mount point is a link to
``__modal/volumes/vo-...``, as it is on Modal, so a comparison of paths that follows links on one side only fails.
"""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modal_proto import api_pb2 as pb

if TYPE_CHECKING:
    from tests.remote.standin_server import Call, Server

Snapshot = dict[str, tuple[int, int]]


def files_of(folder: Path) -> Snapshot:
    """Size and modification time of every file below a folder."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # renamed away while we looked
            if path.is_file():
                stat = path.stat()
                found[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return found


def copy_file(source: Path, target: Path) -> None:
    """Copy by writing beside and renaming, so that a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".standin")
    with suppress(FileNotFoundError):
        shutil.copy2(source, beside)
        beside.replace(target)


@dataclass
class Volume:
    """A named volume; ``folder`` is its committed content."""

    volume_id: str
    name: str
    folder: Path
    commits: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)


@dataclass
class Rules:
    """How the stand-in treats containers; tests change these."""

    site: Path
    environment: dict[str, str] = field(default_factory=dict)
    #: Hours that pass at once for a container, so that a test need not wait for the 24-hour limit.
    hours_passed: Callable[[Container], float] = lambda container: 0.0
    grace_seconds: float = 30.0
    #: Looked at 50 times a second; the signal to send, or None.
    interfere: Callable[[Container], signal.Signals | None] = lambda container: None
    #: Whether a mount point is a link, as on Modal, or a plain folder.
    links: bool = True
    #: Lost containers of one call after which its input fails (an internal failure).
    most_deaths: int = 8


class Container:
    """One attempt at one input."""

    def __init__(self, server: Server, call: Call, rules: Rules) -> None:
        self.server, self.call, self.rules = server, call, rules
        self.task_id = server.new_id("ta")
        self.definition: pb.Function = call.function.definition
        self.root = server.folder / "containers" / self.task_id
        self.delivered = False
        self.startup_failed = False
        self.output: pb.FunctionPutOutputsItem | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.signalled: signal.Signals | None = None
        self.text = ""
        #: By the monotonic clock; infinite before and while it runs.
        self.began = self.ended = math.inf
        self._bases: dict[str, Snapshot] = {}

    @property
    def name(self) -> str:
        return self.definition.function_name

    def volume_folder(self, name: str) -> Path:
        """Where this container sees a volume."""
        for mount in self.definition.volume_mounts:
            if self.server.volumes[mount.volume_id].name == name:
                return self.root / mount.mount_path.strip("/")
        raise KeyError(name)

    async def run(self) -> str:
        """Start, wait for the end, say how it ended: ``exit N``, ``signal N`` or ``timeout``."""
        self.began = time.monotonic()
        self._lay_out()
        arguments = self.root / "arguments.pb"
        arguments.write_bytes(self._arguments().SerializeToString())
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-m", "modal._container_entrypoint"),
            env=self._environment(arguments),
            cwd=self.root / "root",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        reading = asyncio.create_task(self._read_output())
        watching = asyncio.create_task(self._watch())
        code = await self.process.wait()
        timed_out = await self._end(watching)
        await reading
        self.ended = time.monotonic()
        return "timeout" if timed_out else f"exit {code}" if code >= 0 else f"signal {-code}"

    async def _end(self, watching: asyncio.Task[bool]) -> bool:
        if watching.done():
            return watching.result()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        return False

    async def _read_output(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        while line := await self.process.stdout.readline():
            text = line.decode(errors="replace")
            self.text += text
            await self.server.log(self.call.function.app, self, text)

    async def _watch(self) -> bool:
        """Sends what the rules ask for; True after the time limit killed the container."""
        started = time.monotonic()
        kill_at = None
        while True:
            await asyncio.sleep(0.02)
            if time.monotonic() - started + 3600 * self.rules.hours_passed(self) > self.definition.timeout_secs:
                self.kill()
                return True
            if kill_at is not None and time.monotonic() > kill_at:
                self.kill()
                return False
            if self.signalled is None and (wanted := self.rules.interfere(self)) is not None:
                self.signalled = wanted
                self._send(wanted)
                kill_at = time.monotonic() + self.rules.grace_seconds

    def _send(self, number: signal.Signals) -> None:
        """To the container's first process, as Modal does; SIGKILL to all that runs in it."""
        if self.process is None or self.process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    # The file system ----------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        (self.root / "root").mkdir(parents=True)
        for mount_id in self.definition.mount_ids:
            for file in self.server.mounts[mount_id]:
                target = self.root / file.filename.strip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.server.folder / "files" / file.sha256_hex, target)
        for mount in self.definition.volume_mounts:
            point = self.root / mount.mount_path.strip("/")
            folder = self.root / "__modal" / "volumes" / mount.volume_id if self.rules.links else point
            shutil.copytree(self.server.volumes[mount.volume_id].folder, folder)
            if self.rules.links:
                point.symlink_to(folder, target_is_directory=True)
            self._bases[mount.volume_id] = files_of(folder)

    def _mounted(self, volume_id: str) -> Path:
        return self.volume_folder(self.server.volumes[volume_id].name)

    def commit(self, volume_id: str) -> None:
        """Publish what changed here since the last commit; the last writer of a file wins."""
        volume, folder, base = self.server.volumes[volume_id], self._mounted(volume_id), self._bases[volume_id]
        volume.commits += 1
        now = files_of(folder)
        for name, state in now.items():
            if base.get(name) != state:
                copy_file(folder / name, volume.folder / name)
        for name in base.keys() - now.keys():
            (volume.folder / name).unlink(missing_ok=True)
        self._bases[volume_id] = now

    def reload(self, volume_id: str) -> str:
        """Show what others committed; returns an open file below the volume that forbids it, or ``""``."""
        folder = self._mounted(volume_id)
        if held := self._open_below(folder):
            return held
        committed = files_of(self.server.volumes[volume_id].folder)
        for name, state in committed.items():
            if self._bases[volume_id].get(name) != state:
                copy_file(self.server.volumes[volume_id].folder / name, folder / name)
        self._bases[volume_id] = files_of(folder)
        return ""

    def _open_below(self, folder: Path) -> str:
        """An open file, memory map or working directory of the container below ``folder`` (Linux)."""
        folder = folder.resolve()  # as the kernel names what is open
        assert self.process is not None
        proc = Path("/proc") / str(self.process.pid)
        with suppress(OSError):
            links = [proc / "cwd", *(proc / "fd").iterdir()]
            for link in links:
                with suppress(OSError):
                    target = link.readlink()
                    if target.is_relative_to(folder):
                        return str(target.relative_to(folder))
            for line in (proc / "maps").read_text().splitlines():
                if str(folder) + "/" in line:
                    return line.split(maxsplit=5)[-1]
        return ""

    # What the runtime is told ---------------------------------------------------------------------------

    def _arguments(self) -> pb.ContainerArguments:
        server, app = self.server, self.call.function.app
        layout = pb.AppLayout(function_ids=app.function_ids)
        for function_id in app.function_ids.values():
            metadata = server.functions[function_id].metadata
            layout.objects.append(pb.Object(object_id=function_id, function_handle_metadata=metadata))
        for dependency in self.definition.object_dependencies:
            entry = pb.Object(object_id=dependency.object_id)
            if dependency.object_id in server.volumes:
                entry.volume_metadata.name = server.volumes[dependency.object_id].name
            layout.objects.append(entry)
        return pb.ContainerArguments(
            task_id=self.task_id,
            function_id=self.call.function.function_id,
            app_id=app.app_id,
            function_def=self.definition,
            app_layout=layout,
            environment_name="main",
        )

    def _environment(self, arguments: Path) -> dict[str, str]:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            # The kernels that the run compared with uses: others add up in another order, and the last digit differs.
            **{name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")},
            "HOME": str(self.root / "root"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": f"{self.root / 'root'}{os.pathsep}{self.rules.site}",
            "PYTHONUNBUFFERED": "1",
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": self.server.url,
            "MODAL_TASK_ID": self.task_id,
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments),
            "MODAL_OVERRIDE_HEADERS": f"x-standin-task:{self.task_id}",
            "EMERGENCE_CONTAINER_ROOT": str(self.root),
            **self._image_environment(),
            **self.rules.environment,
        }
        for secret_id in self.definition.secret_ids:
            environment.update(self.server.secrets[secret_id])
        (self.root / "tmp").mkdir()
        return environment

    def _image_environment(self) -> dict[str, str]:
        """The ``ENV`` lines of the image."""
        lines: list[Any] = self.server.image_chain(self.definition.image_id) if self.definition.image_id else []
        pairs = [word.split("=", 1) for line in lines if line.startswith("ENV ") for word in shlex.split(line)[1:]]
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
