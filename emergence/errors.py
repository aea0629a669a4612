"""Errors a user can cause and cure: one line each, with the cure in it.

Anything else that escapes is a defect of this program and keeps its traceback. The command line
prints an :class:`EmergenceError` as ``error: <message>`` and exits with its ``exit_code``.
"""

from __future__ import annotations

from pathlib import Path


class EmergenceError(Exception):
    """The experiment cannot go on; the message names what to do. Exit code 1."""

    exit_code = 1


class UsageError(EmergenceError):
    """Flags, config, weights or data that cannot work, found before anything is written. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A config file or ``--set`` value that is unknown, of the wrong type, or impossible."""


class DataError(UsageError):
    """A data file that is missing, empty or malformed; names the file and, where it can, the line."""

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        self.path, self.line = path, line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{where}{message}")


class WeightsError(UsageError):
    """Weights that are missing, unreadable, or of another model or tokenizer."""


class RunDirectoryError(EmergenceError):
    """A run directory that is locked, damaged or not what was asked for. Exit code 1."""
