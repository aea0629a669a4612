"""A GPU that is none: tensors that say ``cuda`` and are computed on the CPU, where mixing the two is refused.

``there`` means on the pretended GPU.

It shows on any machine that what a GPU needs is moved there and back. Every operation of PyTorch, those of a backward
pass too, asks where its operands are, and stops as on a GPU if they are in two places. It tells nothing of a GPU's
kernels, number formats, memory, random numbers, compiler or speed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
#: The memory that it says it has. Only the CPU's limits it.
BYTES = 2**34
_aten = torch.ops.aten
#: Copies are how a tensor moves, so they take operands of both places.
_COPIES = {_aten.copy_.default, _aten._foreach_copy_.default}
#: Their second operand, the indices, may be on the CPU.
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


@contextlib.contextmanager
def pretend_gpu() -> Iterator[Operations]:
    """Within it, this process has one GPU, ``cuda:0``, which is pretended. What it runs is counted.

    Threads that are started within it see its name but cannot compute there; processes see nothing.
    """
    replaced = {
        "torch.Generator": _Generator,
        "torch.autocast": _autocast,
        "torch.is_autocast_enabled": lambda device_type="cuda": _IS_AUTOCAST_ENABLED("cpu"),
        "torch.get_autocast_dtype": lambda device_type: _GET_AUTOCAST_DTYPE("cpu"),
        "torch.compile": lambda function, **settings: function,
        **{f"torch.cuda.{name}": function for name, function in _OF_CUDA.items()},
    }
    with contextlib.ExitStack() as stack:
        for name, replacement in replaced.items():
            stack.enter_context(mock.patch(name, replacement))
        stack.enter_context(_Names())
        yield stack.enter_context(Operations())


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor is on the pretended GPU."""
    # A storage keeps what is noted on it as long as any tensor needs it.
    return getattr(tensor.untyped_storage(), "on_pretended_gpu", False)


def _tensors(value: Any) -> list[Tensor]:
    """All of an operation's operands or results. (torch's own walk takes most of the time of small operations.)"""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


def _put(value: Any, there: bool) -> Any:
    for leaf in _tensors(value):
        if leaf.device.type != "meta":
            leaf.untyped_storage().on_pretended_gpu = there  # type: ignore[attr-defined]
    return value


# What is computed --------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Refuses operands of two places, and leaves results where the operands are.

    Attributes:
        ran: How many operations the pretended GPU has run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ran = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = _tensors((args, kwargs))
        there = [operand for operand in operands if is_there(operand)]
        if not there:
            return func(*args, **kwargs)
        if len(there) < len(operands) and func not in _COPIES:
            self._refuse_mixed(func, args, operands)
        self.ran += 1
        results = func(*args, **kwargs)
        # What was written to stays where it is: a copy from there to the CPU, for one.
        written = {id(operand) for operand in operands}
        return results if all(id(leaf) in written for leaf in _tensors(results)) else _put(results, True)

    @staticmethod
    def _refuse_mixed(func: Any, args: Any, operands: list[Tensor]) -> None:
        """By element or index they take numbers, which have no dimensions, from the CPU, but write none there."""
        left = [operand for operand in operands if not is_there(operand)]
        if func in _INDEXED and is_there(args[0]):
            left = [operand for operand in left if not any(operand is index for index in args[1])]
        in_place = func.__name__.split(".")[0].endswith("_")
        # torch groups the tensors of its own operations on lists by where they really are, and brings the number there.
        of_lists = func.__name__.startswith(("_foreach", "_fused"))
        takes_numbers = func in _INDEXED or torch.Tag.pointwise in func.tags or of_lists
        if any(operand.dim() > 0 or not takes_numbers or (in_place and operand is args[0]) for operand in left):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({func} of {[tuple(operand.shape) for operand in operands]})"
            )


class _Graph:
    """A CUDA graph: operations, and the tensors they were captured with, which are all that a replay knows."""

    stream: object  # that it was captured on

    def __init__(self) -> None:
        self._captured: list[tuple[Any, Any, Any, Any]] = []
        self._storages: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, results in self._captured:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(results), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def capture(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation, so that the next one has its result, and remember it."""
        if func is _aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._remember(value)
        self._remember(kwargs.get("out"))
        results = func(*args, **kwargs)
        self._captured.append((func, args, kwargs, results))
        given = {_storage(leaf) for leaf in _tensors((args, kwargs))}
        self._storages |= {_storage(leaf) for leaf in _tensors(results)} - given
        return results

    def _remember(self, value: Any) -> None:
        for leaf in _tensors(value):
            if _storage(leaf) not in self._storages | self._before.keys():
                whole = torch.empty(0, dtype=leaf.dtype).set_(leaf.untyped_storage())
                self._before[_storage(leaf)] = whole, whole.clone()

    def undo(self) -> None:
        """Take back what the capture computed in tensors of before: a GPU computes nothing then."""
        with torch.no_grad():
            for whole, before in self._before.values():
                whole.copy_(before)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Capture(TorchDispatchMode):
    def __init__(self, graph: _Graph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._graph.capture(func, args, kwargs or {})


@contextlib.contextmanager
def _captured(graph: _Graph, stream: object) -> Iterator[None]:
    graph.stream = stream
    with _Capture(graph):
        yield
    graph.undo()


class _Move(torch.autograd.Function):
    """A copy in the other place, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, there: bool) -> Tensor:
        ctx.came_from = is_there(tensor)
        return _put(tensor.detach().clone(), there)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _put(gradient.clone(), ctx.came_from), None


# What Python asks --------------------------------------------------------------------------------------------------


class _Names(TorchFunctionMode):
    """Answers where a tensor is, makes it in the place that is named, and moves it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _ANSWERS:
            return _ANSWERS[func](func, *args, **kwargs)
        if func is Tensor.backward:  # calls Python again, in which this mode must be on
            with self:
                return torch.autograd.backward(args, kwargs.pop("gradient", None), **kwargs)
        place = _named(kwargs.get("device"))
        if "generator" in kwargs and kwargs["generator"] is not None:
            _refuse_foreign_generator(kwargs["generator"], place, args)
        if place is None:
            return func(*args, **kwargs)
        try:
            made = func(*args, **(kwargs if place.type == "meta" else kwargs | {"device": CPU}))
        except RuntimeError as error:
            if place.type == "cuda" and "can't allocate memory" in str(error):
                raise torch.OutOfMemoryError("CUDA out of memory.") from error
            raise
        if func in (torch.as_tensor, torch.asarray):  # else it would be one with what it was made of
            made = made.clone()
        return _put(made, place.type == "cuda")


def _named(device: Any) -> torch.device | None:
    return None if device is None else torch.device(device)


def _refuse_foreign_generator(generator: torch.Generator, place: torch.device | None, args: Any) -> None:
    expected = place.type if place else "cuda" if any(isinstance(a, Tensor) and is_there(a) for a in args) else "cpu"
    found = "cuda" if getattr(generator, "of_pretended_gpu", False) else "cpu"
    if expected != found:
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}'")


class _Generator(torch.Generator):
    """A source of random numbers that says which place it is of."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls, "cpu")
        made.of_pretended_gpu = torch.device(device).type == "cuda"
        return made

    of_pretended_gpu: bool


def _device(func: Any, tensor: Tensor, *_: Any) -> torch.device:
    real: torch.device = func(tensor)
    return GPU if real.type == "cpu" and is_there(tensor) else real


def _is_cuda(func: Any, tensor: Tensor, *_: Any) -> bool:
    return is_there(tensor)


def _is_cpu(func: Any, tensor: Tensor, *_: Any) -> bool:
    return bool(func(tensor)) and not is_there(tensor)


def _to(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    other = kwargs.pop("other", args[0] if args else None)
    if isinstance(other, Tensor):
        place, rest = (GPU if is_there(other) else CPU), {"dtype": other.dtype}
    else:
        copied = {"copy": kwargs.pop("copy")} if "copy" in kwargs else {}
        place, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        rest = copied | ({} if dtype is None else {"dtype": dtype})
        rest |= {} if layout is None else {"memory_format": layout}
    if place is not None and place.type == "meta":
        return func(tensor, *args, **kwargs)  # type: ignore[no-any-return]
    if place is not None and (place.type == "cuda") != is_there(tensor):
        tensor = _Move.apply(tensor, place.type == "cuda")
    return func(tensor, **rest) if rest else tensor


def _cpu(func: Any, tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return _Move.apply(tensor, False) if is_there(tensor) else tensor  # type: ignore[no-any-return]


def _cuda(func: Any, tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor if is_there(tensor) else _Move.apply(tensor, True)  # type: ignore[no-any-return]


def _numpy(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    if is_there(tensor):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")
    return func(tensor, *args, **kwargs)


def _beside(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A copy, or something new, in the place of ``tensor``."""
    return _put(func(tensor, *args, **kwargs), is_there(tensor))  # type: ignore[no-any-return]


def _autocast(device_type: str, *rest: Any, **more: Any) -> contextlib.AbstractContextManager[Any]:
    """The GPU's is the CPU's here, so that of the CPU is not turned on: it would do nothing for what is there."""
    if device_type == "cuda" or not more.get("enabled", True):
        return _AUTOCAST("cpu", *rest, **more)
    return contextlib.nullcontext()


_ANSWERS: dict[Any, Callable[..., Any]] = {
    Tensor.device.__get__: _device,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: _is_cpu,  # type: ignore[attr-defined]
    Tensor.to: _to,
    Tensor.cpu: _cpu,
    Tensor.cuda: _cuda,
    Tensor.numpy: _numpy,
    Tensor.__array__: _numpy,
    Tensor.__deepcopy__: _beside,
    Tensor.new_tensor: _beside,
}
_AUTOCAST = torch.autocast
_IS_AUTOCAST_ENABLED, _GET_AUTOCAST_DTYPE = torch.is_autocast_enabled, torch.get_autocast_dtype
_OF_CUDA: dict[str, Callable[..., Any]] = {
    "CUDAGraph": _Graph,
    "graph": _captured,
    "Stream": object,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "pretended GPU",
    "get_device_properties": lambda device=None: SimpleNamespace(name="pretended GPU", total_memory=BYTES, major=8),
    "mem_get_info": lambda device=None: (BYTES, BYTES),
    "memory_allocated": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 1,  # shares are taken of it
    "reset_peak_memory_stats": lambda device=None: None,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
    "get_rng_state": lambda device=None: torch.get_rng_state(),
    "set_rng_state": lambda state, device=None: None,
}
