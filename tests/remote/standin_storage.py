"""Volumes and dictionaries of the stand-in: what outlives containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.remote.standin_containers import Container, Volume

#: Files are downloaded in pieces of this many bytes, as the client expects.
BLOCK = 8 * 1024 * 1024


class Storage:
    """The storage calls of the server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks_url = ""
        self.containers: dict[str, Container] = {}
        self.volumes: dict[str, Volume] = {}
        self.dicts: dict[str, dict[bytes, bytes]] = {}
        self._ids: dict[str, int] = {}

    def new_id(self, prefix: str) -> str:
        self._ids[prefix] = self._ids.get(prefix, 0) + 1
        return f"{prefix}-{self._ids[prefix]:06d}"

    # Volumes ------------------------------------------------------------------------------------------

    async def VolumeGetOrCreate(self, request: pb.VolumeGetOrCreateRequest, task: str) -> pb.VolumeGetOrCreateResponse:
        name = request.deployment_name
        volume = next((v for v in self.volumes.values() if v.name == name), None)
        if volume is None and request.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise GRPCError(Status.NOT_FOUND, f"Volume '{name}' not found in environment 'main'")
        if volume is None:
            volume = Volume(self.new_id("vo"), name, self.folder / "volumes" / name)
            self.volumes[volume.volume_id] = volume
        return pb.VolumeGetOrCreateResponse(volume_id=volume.volume_id, metadata=pb.VolumeMetadata(name=name))

    async def VolumeCommit(self, request: pb.VolumeCommitRequest, task: str) -> pb.VolumeCommitResponse:
        await asyncio.to_thread(self.containers[task].commit, request.volume_id)
        return pb.VolumeCommitResponse(skip_reload=False)

    async def VolumeReload(self, request: pb.VolumeReloadRequest, task: str) -> Empty:
        held = await asyncio.to_thread(self.containers[task].reload, request.volume_id)
        if held:
            raise GRPCError(Status.FAILED_PRECONDITION, f"there are open files preventing the operation: {held}")
        return Empty()

    async def VolumeListFiles(self, request: Any, task: str) -> AsyncIterator[pb.VolumeListFilesResponse]:
        folder = self.volumes[request.volume_id].folder
        start = folder / request.path.strip("/")
        if not start.exists():
            raise GRPCError(Status.NOT_FOUND, f"No such file or directory: {request.path}")
        found = [start] if start.is_file() else sorted(start.rglob("*") if request.recursive else start.iterdir())
        entries = []
        for path in found:
            kind = pb.FileEntry.FileType.DIRECTORY if path.is_dir() else pb.FileEntry.FileType.FILE
            stat = path.stat()
            name = path.relative_to(folder).as_posix()
            entries.append(pb.FileEntry(path=name, type=kind, mtime=int(stat.st_mtime), size=stat.st_size))
        yield pb.VolumeListFilesResponse(entries=entries)

    async def VolumeGetFile2(self, request: pb.VolumeGetFile2Request, task: str) -> pb.VolumeGetFile2Response:
        path = self.volumes[request.volume_id].folder / request.path.strip("/")
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, f"No such file: {request.path}")
        size = path.stat().st_size
        base = f"{self.blocks_url}/{request.volume_id}/{request.path.strip('/')}"
        urls = [f"{base}?start={start}" for start in range(0, size, BLOCK)]
        return pb.VolumeGetFile2Response(get_urls=urls, size=size, start=0, len=size)

    # Dictionaries (run locks) --------------------------------------------------------------------------

    async def DictGetOrCreate(self, request: pb.DictGetOrCreateRequest, task: str) -> pb.DictGetOrCreateResponse:
        missing = request.deployment_name not in self.dicts
        if missing and request.object_creation_type != pb.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            raise GRPCError(Status.NOT_FOUND, f"Dict '{request.deployment_name}' not found")
        self.dicts.setdefault(request.deployment_name, {})
        metadata = pb.DictMetadata(name=request.deployment_name)
        return pb.DictGetOrCreateResponse(dict_id=f"di-{request.deployment_name}", metadata=metadata)

    async def DictGet(self, request: pb.DictGetRequest, task: str) -> pb.DictGetResponse:
        value = self.dicts[request.dict_id.removeprefix("di-")].get(request.key)
        return pb.DictGetResponse(found=value is not None, value=value)

    async def DictUpdate(self, request: pb.DictUpdateRequest, task: str) -> pb.DictUpdateResponse:
        content = self.dicts[request.dict_id.removeprefix("di-")]
        (entry,) = request.updates
        if request.if_not_exists and entry.key in content:
            return pb.DictUpdateResponse(created=False)
        content[entry.key] = entry.value
        return pb.DictUpdateResponse(created=True)

    async def DictPop(self, request: pb.DictPopRequest, task: str) -> pb.DictPopResponse:
        value = self.dicts[request.dict_id.removeprefix("di-")].pop(request.key, None)
        return pb.DictPopResponse(found=value is not None, value=value)
