"""Flags, each declared once, on the field that holds it: type, choices, default and help.

Typer, Modal's client and argparse make their command lines from the same declarations. The first two read a
function's signature, which :func:`takes` builds. Standard library only; Typer is imported where it is used.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from emergence.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

#: Default of a flag that has to be given.
REQUIRED: Any = MISSING


@dataclass(frozen=True)
class Flag:
    """One flag of a command line.

    Attributes:
        name: ``--name``, with hyphens.
        kind: ``bool``, ``int``, ``float``, ``str`` or ``list[str]``, also with ``| None``, or a ``Literal`` of strings.
        default: The value where the flag is not given, or ``REQUIRED``.
        help: What it does, in one line.
        metavar: What stands for its value in ``--help``.
        before: Name of the flag that it stands before; None leaves it in the order of declaration.
        on_modal: The flag that ``modal run`` has in its place, where Modal's client cannot take this one.
    """

    name: str
    kind: Any
    default: Any
    help: str
    metavar: str | None = None
    before: str | None = None
    on_modal: Flag | None = None

    @property
    def option(self) -> str:
        """The flag as it is written on a command line: ``--max-cost``."""
        return "--" + self.name.replace("_", "-")

    @property
    def types(self) -> tuple[type, ...]:
        """Types that its values may have: ``(int, NoneType)`` for ``int | None``."""
        return (str,) if self.choices else tuple(get_args(self.kind) or [self.kind])

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a ``Literal``; empty for other kinds."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()


def flag(default: Any, help: str, *, metavar: str | None = None, before: str | None = None) -> Any:
    """A dataclass field that is a flag. The arguments are the attributes of :class:`Flag`."""
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, "before": before})


def flags_of(owner: type, *names: str) -> tuple[Flag, ...]:
    """The flags among the fields of a dataclass, in their order. With ``names``, only those, in the order of names."""
    declared = _declared(owner)
    return tuple(declared[name] for name in names or declared)


@functools.cache  # reading hundreds of stored specs would spend its time here
def _declared(owner: Any) -> dict[str, Flag]:
    hints = get_type_hints(owner)
    fields = [f for f in dataclasses.fields(owner) if "help" in f.metadata]
    return {f.name: Flag(f.name, hints[f.name], f.default, **f.metadata) for f in fields}


def for_modal(flags: Iterable[Flag]) -> tuple[Flag, ...]:
    """Flags as ``modal run`` has them."""
    return tuple(each.on_modal or each for each in _in_order(flags))


def _in_order(flags: Iterable[Flag]) -> list[Flag]:
    ordered: list[Flag] = []
    for each in flags:
        place = next((i for i, other in enumerate(ordered) if other.name == each.before), len(ordered))
        ordered.insert(place, each)
    return ordered


# Command lines --------------------------------------------------------------------------------------


def takes(*flags: Flag, client: Literal["typer", "modal"] = "typer") -> Callable[[F], F]:
    """Decorator: ``function(..., **flags)`` gets the signature from which a client makes its command line.

    The function's own parameters stand before the flags, its keyword-only parameters after them.

    Args:
        flags: What the function takes besides its own parameters.
        client: Who makes the command line. Modal's client reads types and defaults alone (``modal/cli/run.py``), so
            :func:`emergence.remote.launch.flags_on_command_line` answers ``modal run FILE --help`` before it.
    """

    def decorate(function: F) -> F:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
        declared = [_parameter(each, client) for each in (for_modal(flags) if client == "modal" else _in_order(flags))]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*first, *declared, *own[len(first) :])]
        vars(function)["__signature__"] = inspect.Signature(parameters)
        function.__annotations__ = {p.name: p.annotation for p in parameters}
        return function

    return decorate


def _parameter(each: Flag, client: str) -> inspect.Parameter:
    kind = each.kind
    if client == "typer":
        import typer

        option = typer.Option(each.option, help=each.help, metavar=each.metavar)
        kind = Annotated[each.kind, option]
    default = inspect.Parameter.empty if each.default is REQUIRED else each.default
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def parser_of(flags: Sequence[Flag], **settings: Any) -> argparse.ArgumentParser:
    """A command line as ``modal run`` makes it of the same flags, but with their help."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(allow_abbrev=False, formatter_class=shape, **settings)
    parser.usage = f"{parser.prog} [OPTIONS]"
    for each in flags:
        if each.kind is bool:
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            kind = next(kind for kind in each.types if kind is not NoneType)
            metavar = each.metavar or (None if each.choices else _METAVARS[kind])
            how = {"type": kind, "choices": each.choices or None, "metavar": metavar}
            how["required"] = each.default is REQUIRED and settings.get("exit_on_error", True)
        added = parser.add_argument(each.option, dest=each.name, default=each.default, **how)
        unsaid = each.default in (None, "") or each.kind is bool
        default = "" if unsaid else " [required]" if each.default is REQUIRED else f" [default: {each.default}]"
        added.help = (each.help + default).replace("%", "%%")
    return parser


_METAVARS = {str: "TEXT", int: "INTEGER", float: "NUMBER"}


def parse_list(text: str | None) -> tuple[str, ...] | None:
    """Comma-separated entries of a flag; None where it was not given."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Layers as whole numbers.

    Raises:
        UsageError: An entry is no whole number.
    """
    parts = parse_list(text)
    try:
        return None if parts is None else tuple(int(part) for part in parts)
    except ValueError:
        raise UsageError(f"--layers {text}: give whole numbers with commas, e.g. 0,2,3") from None
