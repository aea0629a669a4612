"""The project's command lines, in this process: how one ends, and what each prints with ``--help``.

They are found by walking: nothing lists them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import modal
import typer
from modal.app import LocalEntrypoint
from modal.cli.run import _get_click_command_for_local_entrypoint

import emergence.cli
import emergence.remote.app

ROOT = Path(__file__).resolve().parents[1]
#: What a person may start by its file.
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")])
#: Help as on a terminal of this width, without colours.
TERMINAL = {"COLUMNS": "80", "NO_COLOR": "1", "MODAL_RICH_CLI": "0"}


def run_file(script: str, *line: str, name: str = "imported") -> dict[str, Any]:
    """What ``script`` defines, run as the module ``name`` by a command line.

    Its entry point gets an app of its own, because Modal refuses a second function ``main`` in one app.
    """
    with (
        mock.patch.object(emergence.remote.app, "app", modal.App()),
        mock.patch.object(sys, "argv", [*line] or [script]),
        mock.patch.object(sys, "path", [*sys.path]),
    ):
        return runpy.run_path(str(ROOT / script), run_name=name)


class Ended(NamedTuple):
    """How a command line ended: its exit code, standard output and standard error."""

    code: Any
    out: str
    err: str


def typed(program: str, *words: str, encoding: str = "utf-8") -> Ended:
    """``emergence WORDS``, or ``python SCRIPT WORDS``, through the program's own entry point.

    A character that ``encoding`` lacks is an error on standard output, as in Python, and spelled out on the other.
    """
    streams = [io.BytesIO(), io.BytesIO()]
    out, err = (
        io.TextIOWrapper(stream, encoding, errors, newline="\n", write_through=True)
        for stream, errors in zip(streams, ("strict", "backslashreplace"), strict=True)
    )

    def ended(code: Any) -> Ended:
        return Ended(code, *(stream.getvalue().decode(encoding) for stream in streams))

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if program == "emergence":
                with mock.patch.object(sys, "argv", [program, *words]):
                    emergence.cli.run()
            else:
                run_file(program, program, *words, name="__main__")
        except SystemExit as end:
            return ended(end.code or 0)
    return ended(0)


@functools.cache
def emergence_command() -> Any:
    """The click command that Typer builds for ``emergence``."""
    return typer.main.get_command(emergence.cli.app)


@functools.cache
def script_command(script: str) -> Any:
    """The click command of ``python SCRIPT``: Typer's, or that of its entry point, which takes the same flags."""
    app = run_file(script).get("app")
    return typer.main.get_command(app) if isinstance(app, typer.Typer) else modal_command(script)


@functools.cache
def modal_command(script: str) -> Any:
    """The click command that Modal's client builds for ``modal run SCRIPT``; None without an entry point."""
    for defined in run_file(script).values():
        if isinstance(defined, LocalEntrypoint):
            return _get_click_command_for_local_entrypoint(modal.App(), defined)
    return None


def every_help() -> dict[str, str]:
    """Command lines, and what they print with ``--help``."""
    texts = dict(_helps_of(emergence_command(), "emergence"))
    for script in SCRIPTS:
        if modal_command(script):  # the file answers before the client does, with help texts
            line = ("modal", "run", str(ROOT / script), "--help")
            texts[f"modal run {script}"] = printed(lambda script=script, line=line: run_file(script, *line))
        if text := printed(lambda script=script: run_file(script, script, "--help", name="__main__")):
            texts[f"python {script}"] = text
    return texts


def _helps_of(command: Any, program: str) -> Iterator[tuple[str, str]]:
    for words in _walk(command):
        yield (
            " ".join([program, *words]),
            printed(lambda words=words: command.main([*words, "--help"], prog_name=program)),
        )


def _walk(command: Any) -> Iterator[list[str]]:
    yield []
    for name, below in getattr(command, "commands", {}).items():
        yield from ([name, *words] for words in _walk(below))


def printed(program: Callable[[], object]) -> str:
    """Nothing where ``program`` does not end by itself, as a file does that only defines things."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), mock.patch.dict(os.environ, TERMINAL):
        try:
            program()
        except SystemExit as end:
            assert not end.code, f"exit code {end.code}"
            return out.getvalue()
    return ""
