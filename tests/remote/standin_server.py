"""The calls of Modal's server that one ``modal run`` and its containers make, answered on the loopback interface.

This is a stand-in for the *server* only: the client is the installed, unmodified Modal client and the
containers are its real container runtime. It keeps what Modal documents and the tests rely on:
an input is retried by the function's policy when it fails or times out and rescheduled without limit
when its container dies, a volume shows a container what was committed before it started, ``commit``
is what publishes, and ``reload`` refuses while files on the volume are open.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb
from modal_proto.api_grpc import ModalClientBase

from tests.remote.standin_containers import Container
from tests.remote.standin_storage import Storage

SUCCESS = pb.GenericResult.GENERIC_STATUS_SUCCESS
TASK_HEADER = "x-standin-task"


@dataclass(frozen=True)
class Fault:
    """An error in the place of an answer; ``done`` where what was asked for has been done all the same."""

    status: Status
    done: bool = False


@dataclass
class App:
    """One ``modal run``."""

    app_id: str
    detached: bool
    function_ids: dict[str, str] = field(default_factory=dict)
    logs: list[pb.TaskLogsBatch] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    disconnected: bool = False


@dataclass
class Function:
    """A function definition, or a variant of one made by ``with_options``."""

    function_id: str
    app: App
    definition: pb.Function
    metadata: pb.FunctionHandleMetadata


@dataclass
class Call:
    """One function call with its single input."""

    call_id: str
    function: Function
    input: pb.FunctionInput
    attempt: int = 0
    failures: int = 0
    deaths: int = 0
    output: pb.FunctionGetOutputsItem | None = None
    containers: list[Container] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: bool = False


class Server(Storage):
    """State and handlers. A handler is a coroutine or, for streams, an async generator, named after its call."""

    def __init__(self, folder: Path, make_container: Any) -> None:
        super().__init__(folder)
        self.make_container = make_container
        self.url = ""
        self.received: list[str] = []
        self.unknown: list[str] = []
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.calls: dict[str, Call] = {}
        self.mounts: dict[str, list[pb.MountFile]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.images: dict[str, pb.Image] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        #: Which call is to fail, by its name and the id of the asking container (empty for a laptop); tests change it.
        self.fault: Callable[[str, str], Fault | None] = lambda name, task: None

    # The app and what it is made of ---------------------------------------------------------------

    async def ClientHello(self, request: Empty, task: str) -> pb.ClientHelloResponse:
        return pb.ClientHelloResponse()

    async def AuthTokenGet(self, request: Any, task: str) -> pb.AuthTokenGetResponse:
        return pb.AuthTokenGetResponse(token="stand-in")

    async def EnvironmentGetOrCreate(self, request: Any, task: str) -> pb.EnvironmentGetOrCreateResponse:
        settings = pb.EnvironmentSettings(image_builder_version="2025.06", webhook_suffix="")
        metadata = pb.EnvironmentMetadata(name="main", settings=settings)
        return pb.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def AppCreate(self, request: pb.AppCreateRequest, task: str) -> pb.AppCreateResponse:
        app = App(self.new_id("ap"), detached=request.app_state == pb.APP_STATE_DETACHED)
        self.apps[app.app_id] = app
        return pb.AppCreateResponse(app_id=app.app_id, app_page_url=f"http://stand-in/{app.app_id}")

    async def AppPublish(self, request: pb.AppPublishRequest, task: str) -> pb.AppPublishResponse:
        self.apps[request.app_id].function_ids.update(request.function_ids)
        return pb.AppPublishResponse(url="http://stand-in", deployed_at=1.0)

    async def AppHeartbeat(self, request: Any, task: str) -> Empty:
        return Empty()

    async def AppClientDisconnect(self, request: pb.AppClientDisconnectRequest, task: str) -> Empty:
        """The client left: an ephemeral app ends with it, a detached one ends with its calls."""
        app = self.apps[request.app_id]
        app.disconnected = True
        if not app.detached:
            for call in self.calls.values():
                if call.function.app is app and not call.done.is_set():
                    call.stopped = True
                    for container in call.containers:
                        container.kill()
        await self._tell(app)
        return Empty()

    async def AppGetLogs(self, request: pb.AppGetLogsRequest, task: str) -> AsyncIterator[pb.TaskLogsBatch]:
        app = self.apps[request.app_id]
        seen = int(request.last_entry_id or 0)
        deadline = asyncio.get_running_loop().time() + request.timeout
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            for batch in app.logs[seen:]:
                yield batch
            seen = len(app.logs)
            running = any(c.function.app is app and not c.done.is_set() for c in self.calls.values())
            if app.disconnected and not running:
                yield pb.TaskLogsBatch(app_done=True)
                return
            async with app.changed:
                if len(app.logs) == seen:
                    await self._wait(app.changed, min(left, 0.5))

    @staticmethod
    async def _wait(condition: asyncio.Condition, seconds: float) -> None:
        try:
            await asyncio.wait_for(condition.wait(), seconds)
        except TimeoutError:
            return

    async def _tell(self, app: App) -> None:
        async with app.changed:
            app.changed.notify_all()

    async def log(self, app: App, container: Container, text: str) -> None:
        items = [pb.TaskLogs(data=text, file_descriptor=pb.FILE_DESCRIPTOR_STDOUT)]
        entry = str(len(app.logs) + 1)
        app.logs.append(pb.TaskLogsBatch(task_id=container.task_id, items=items, entry_id=entry))
        await self._tell(app)

    async def ImageGetOrCreate(self, request: pb.ImageGetOrCreateRequest, task: str) -> pb.ImageGetOrCreateResponse:
        """Any image is built at once: packages are whatever this machine's environment has."""
        content = request.image.SerializeToString(deterministic=True)
        image_id = "im-" + hashlib.sha256(content).hexdigest()[:12]
        self.images[image_id] = request.image
        return pb.ImageGetOrCreateResponse(
            image_id=image_id,
            result=pb.GenericResult(status=SUCCESS),
            metadata=pb.ImageMetadata(image_builder_version=request.builder_version),
        )

    def image_chain(self, image_id: str) -> list[str]:
        """Dockerfile commands from the base image on."""
        image = self.images[image_id]
        inherited = [line for base in image.base_images for line in self.image_chain(base.image_id) if base.image_id]
        return [*inherited, *image.dockerfile_commands]

    async def MountBatchedCheckExistence(self, request: Any, task: str) -> pb.MountBatchedCheckExistenceResponse:
        missing = [name for name in request.sha256_hex_hashes if not (self.folder / "files" / name).exists()]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: pb.MountPutFileRequest, task: str) -> pb.MountPutFileResponse:
        path = self.folder / "files" / request.sha256_hex
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(request.data)
        return pb.MountPutFileResponse(exists=True)

    async def MountGetOrCreate(self, request: pb.MountGetOrCreateRequest, task: str) -> pb.MountGetOrCreateResponse:
        """Files of this app; or a mount by name, which is the client's own package and is in place already."""
        mount_id = self.new_id("mo")
        self.mounts[mount_id] = list(request.files)
        metadata = pb.MountHandleMetadata(content_checksum_sha256_hex="0" * 64)
        return pb.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    async def SecretGetOrCreate(self, request: pb.SecretGetOrCreateRequest, task: str) -> pb.SecretGetOrCreateResponse:
        if request.deployment_name:
            raise GRPCError(Status.NOT_FOUND, f"Secret '{request.deployment_name}' not found")
        secret_id = self.new_id("st")
        self.secrets[secret_id] = dict(request.env_dict)
        return pb.SecretGetOrCreateResponse(secret_id=secret_id, metadata=pb.SecretMetadata())

    # Functions and their calls --------------------------------------------------------------------

    async def FunctionPrecreate(self, request: pb.FunctionPrecreateRequest, task: str) -> pb.FunctionPrecreateResponse:
        function_id = self.new_id("fu")
        metadata = pb.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            app_id=request.app_id,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        self.functions[function_id] = Function(function_id, self.apps[request.app_id], pb.Function(), metadata)
        return pb.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    async def FunctionCreate(self, request: pb.FunctionCreateRequest, task: str) -> pb.FunctionCreateResponse:
        function = self.functions[request.existing_function_id]
        function.definition.CopyFrom(request.function)
        data = pb.FunctionData(ranked_functions=[pb.FunctionData.RankedFunction(rank=0, function=request.function)])
        return pb.FunctionCreateResponse(
            function_id=function.function_id,
            function=request.function,
            function_data=data,
            handle_metadata=function.metadata,
        )

    async def FunctionBindParams(
        self, request: pb.FunctionBindParamsRequest, task: str
    ) -> pb.FunctionBindParamsResponse:
        """A variant of a function (``with_options``)."""
        base = self.functions[request.function_id]
        bound = Function(self.new_id("fu"), base.app, pb.Function(), base.metadata)
        bound.definition.CopyFrom(base.definition)
        options = request.function_options
        if options.HasField("resources"):
            bound.definition.resources.MergeFrom(options.resources)
        if options.HasField("timeout_secs"):
            bound.definition.timeout_secs = options.timeout_secs
        self.functions[bound.function_id] = bound
        return pb.FunctionBindParamsResponse(bound_function_id=bound.function_id, handle_metadata=base.metadata)

    async def FunctionMap(self, request: pb.FunctionMapRequest, task: str) -> pb.FunctionMapResponse:
        (item,) = request.pipelined_inputs
        call = Call(self.new_id("fc"), self.functions[request.function_id], item.input)
        self.calls[call.call_id] = call
        running = asyncio.create_task(self._drive(call))
        self.tasks.add(running)
        running.add_done_callback(self.tasks.discard)
        return pb.FunctionMapResponse(
            function_call_id=call.call_id,
            pipelined_inputs=[pb.FunctionPutInputsResponseItem(idx=0, input_id=f"in-{call.call_id}")],
        )

    async def FunctionGetOutputs(
        self, request: pb.FunctionGetOutputsRequest, task: str
    ) -> pb.FunctionGetOutputsResponse:
        call = self.calls.get(request.function_call_id)
        if call is None:
            raise GRPCError(Status.NOT_FOUND, f"Function call {request.function_call_id} not found")
        try:
            await asyncio.wait_for(call.done.wait(), max(request.timeout, 0.01))
        except TimeoutError:
            return pb.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        assert call.output is not None
        return pb.FunctionGetOutputsResponse(idxs=[0], outputs=[call.output], last_entry_id="1-0")

    async def FunctionCallCancel(self, request: pb.FunctionCallCancelRequest, task: str) -> Empty:
        call = self.calls[request.function_call_id]
        call.stopped = True
        for container in call.containers:
            container.kill()
        return Empty()

    async def _drive(self, call: Call) -> None:
        """Runs a call to its end: containers one after the other, retries by the function's policy."""
        policy = call.function.definition.retry_policy
        while True:
            container = self.make_container(self, call)
            self.containers[container.task_id] = container
            call.containers.append(container)
            outcome = await container.run()
            await self.log(call.function.app, container, f"[stand-in] {container.task_id} ended: {outcome}\n")
            call.attempt += 1
            item = container.output
            if call.stopped:
                item = pb.FunctionPutOutputsItem()
                item.result.status = pb.GenericResult.GENERIC_STATUS_TERMINATED
                item.result.exception = "the app was stopped"
            elif item is None and outcome == "timeout":
                item = pb.FunctionPutOutputsItem()
                item.result.status = pb.GenericResult.GENERIC_STATUS_TIMEOUT
                item.result.exception = "Task's current input hit its timeout"
            elif (
                item is None and call.deaths < container.rules.most_deaths
            ):  # a container lost: the input is rescheduled
                call.deaths += 1
                continue
            elif item is None:
                item = pb.FunctionPutOutputsItem()
                item.result.status = pb.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE
                item.result.exception = "containers kept dying"
            succeeded = item.result.status == SUCCESS
            if not succeeded and not call.stopped and call.failures < policy.retries and not container.startup_failed:
                call.failures += 1
                continue
            call.output = pb.FunctionGetOutputsItem(
                result=item.result, input_id=f"in-{call.call_id}", data_format=item.data_format, idx=0
            )
            call.done.set()
            await self._tell(call.function.app)
            return

    # What containers ask ----------------------------------------------------------------------------

    async def ContainerHello(self, request: Empty, task: str) -> Empty:
        return Empty()

    async def ContainerHeartbeat(self, request: Any, task: str) -> pb.ContainerHeartbeatResponse:
        return pb.ContainerHeartbeatResponse()

    async def FunctionGetInputs(self, request: Any, task: str) -> pb.FunctionGetInputsResponse:
        container = self.containers[task]
        if container.delivered:
            return pb.FunctionGetInputsResponse(inputs=[pb.FunctionGetInputsItem(kill_switch=True)])
        container.delivered = True
        item = pb.FunctionGetInputsItem(
            input_id=f"in-{container.call.call_id}",
            input=container.call.input,
            function_call_id=container.call.call_id,
            function_call_invocation_type=pb.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
            retry_count=container.call.attempt,
        )
        return pb.FunctionGetInputsResponse(inputs=[item])

    async def FunctionPutOutputs(self, request: pb.FunctionPutOutputsRequest, task: str) -> Empty:
        self.containers[task].output = request.outputs[0]
        return Empty()

    async def TaskResult(self, request: pb.TaskResultRequest, task: str) -> Empty:
        """The container could not even load the function."""
        container = self.containers[task]
        container.startup_failed = True
        container.output = pb.FunctionPutOutputsItem(result=request.result)
        return Empty()


def as_grpc_service(server: Server) -> ModalClientBase:
    """The server's handlers behind every method of the client's own service description."""

    def adapt(name: str) -> Any:
        handler = getattr(server, name, None)

        async def answer(self: Any, stream: Any) -> None:
            request = await stream.recv_message()
            server.received.append(name)
            if handler is None:
                server.unknown.append(name)
                raise GRPCError(Status.UNIMPLEMENTED, f"the stand-in does not know {name}: add it to standin_server.py")
            task = str(stream.metadata.get(TASK_HEADER, ""))
            fault = server.fault(name, task)
            if fault is not None and not fault.done:
                raise GRPCError(fault.status, f"injected into {name}")
            if inspect.isasyncgenfunction(handler):
                async for message in handler(request, task):
                    await stream.send_message(message)
                return
            message = await handler(request, task)
            if fault is not None:
                raise GRPCError(fault.status, f"injected into the answer of {name}")
            await stream.send_message(message)

        return answer

    names = ModalClientBase.__abstractmethods__
    service: ModalClientBase = type("StandInService", (ModalClientBase,), {name: adapt(name) for name in names})()
    return service
