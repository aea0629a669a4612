"""Errors a user can cause and cure: one line each, with the cure in it.

Anything else that escapes is a defect of this program and keeps its traceback. The command line
prints an :class:`EmergenceError` as ``error: <message>`` and exits with its ``exit_code``.
"""

from __future__ import annotations

from pathlib import Path

#: Exit code of what saved and stopped because it was asked to (as a shell reports SIGINT).
STOPPED = 130
#: Longest message. It may quote what a user gave, which can be of any length.
_MOST_CHARACTERS = 2_000


def one_line(text: str) -> str:
    """``text`` in one line that any terminal can show. Unprintable characters are escaped, a long middle is cut.

    Messages quote what files and users say, so they may hold line breaks, control codes and lone surrogates.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\t\n\r" else ascii(c)[1:-1] for c in text)
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[: _MOST_CHARACTERS // 2]} ... {text[-_MOST_CHARACTERS // 2 :]}"
    return text


class EmergenceError(Exception):
    """The experiment cannot go on; the message names what to do. Exit code 1, unless another process gave one."""

    exit_code = 1

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(one_line(message))
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(EmergenceError):
    """Flags, config, weights or data that cannot work, found before anything is written. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A config file or ``--set`` value that is unknown, of the wrong type, or impossible."""


class DataError(UsageError):
    """A data file that is missing, empty or malformed. The message names the file and, where known, the line."""

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        self.path, self.line = path, line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{where}{message}")


class WeightsError(UsageError):
    """Weights that are missing, unreadable, or of another model or tokenizer."""


class RunDirectoryError(EmergenceError):
    """A run directory that is locked, damaged or not what was asked for. Exit code 1."""
