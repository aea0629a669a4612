"""Errors a user can cause and cure: one line each, with the cure in it.

Anything else that escapes is a defect of this program and keeps its traceback. The command line
prints an :class:`EmergenceError` as ``error: <message>`` and exits with its ``exit_code``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Exit code of what saved and stopped because it was asked to (as a shell reports SIGINT).
STOPPED = 130
#: Longest message. It may quote what a user gave, which can be of any length.
_MOST_CHARACTERS = 2_000
#: What torch says when an allocation fails.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc", "cannot allocate memory")


def one_line(text: str) -> str:
    """``text`` in one line that any terminal can show. Unprintable characters are escaped, a long middle is cut.

    Messages quote what files and users say, so they may hold line breaks, control codes and lone surrogates.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\t\n\r" else ascii(c)[1:-1] for c in text)
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[: _MOST_CHARACTERS // 2]} ... {text[-_MOST_CHARACTERS // 2 :]}"
    return text


@contextmanager
def machine_errors_in_one_line() -> Iterator[None]:
    """A block in which running out of memory, on the machine or on a GPU, and a failure of the GPU are one line.

    Raises:
        EmergenceError: There was no memory left, or, as a :class:`GpuFailedError`, the GPU stopped. Files are as they
            were, since each is written whole or not at all.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0][:200] or "an allocation failed"
        kept = "what was saved is whole, and the same command goes on from it"
        if is_out_of_memory(error):
            raise EmergenceError(
                f"out of memory ({reason}): {kept}; free some memory, take a larger machine, or start a run with a "
                "smaller --config-name or smaller batch sizes"
            ) from error
        if type(error).__name__ == "AcceleratorError" or reason.startswith("CUDA error"):
            raise GpuFailedError(
                f"the GPU failed ({reason}): {kept}; if pretraining fails again, take another GPU, or start it anew "
                "with --set pretrain.compile=off, which neither compiles nor replays it"
            ) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy or torch says that memory ran out; torch has no class for it on a CPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or any(words in text for words in _NO_MEMORY))
    )


class EmergenceError(Exception):
    """The experiment cannot go on; the message names what to do. Exit code 1, unless another process gave one."""

    exit_code = 1

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(one_line(message))
        if exit_code is not None:
            self.exit_code = exit_code


class GpuFailedError(EmergenceError):
    """A GPU stopped computing; its cause is the library's error. Another GPU may go on. Exit code 1."""


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


class UnreachableError(EmergenceError):
    """Modal cannot be asked: no token, or no connection. Exit code 2 where a token is at fault, else 1."""


# Packages that are not installed -----------------------------------------------------------------------

#: The extra of this project that brings a package, by the name it is imported by; "" is the base.
_EXTRAS = {
    **dict.fromkeys(("modal", "tqdm", "typer"), ""),
    **dict.fromkeys(
        ("torch", "numpy", "scipy", "sklearn", "datasets", "tokenizers", "safetensors", "pyarrow", "orjson"), "local"
    ),
    **dict.fromkeys(("matplotlib", "jinja2"), "report"),
    **dict.fromkeys(("transformers", "huggingface_hub"), "hf"),
    "infomeasure": "mi",
    "emcee": "laws",
    "peft": "laws",
}


def install_line(package: str) -> str:
    """The command that installs what brings ``package``, an import name of :data:`_EXTRAS`."""
    extra = _EXTRAS[package]
    return f"pip install -e '.[{extra}]'" if extra else "pip install -e ."


def require_packages(purpose: str, *packages: str) -> None:
    """Refuse before the work begins what cannot be finished.

    Raises:
        UsageError: One of ``packages`` is not installed; the message has the line that installs it.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{purpose} needs {name}: {install_line(name)}")


def missing_package(error: ImportError) -> UsageError | None:
    """The one line for an import that failed because a package of an extra is absent; None for any other failure."""
    name = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in _EXTRAS:
        return None
    return UsageError(f"this needs {name}, which is not installed: {install_line(name)}")


@contextmanager
def installed() -> Iterator[None]:
    """Around the imports of a file that people start: what is not installed ends the process in one line, exit 2."""
    try:
        yield
    except ImportError as error:
        if (refusal := missing_package(error)) is None:
            raise
        sys.stderr.write(f"error: {refusal}\n")
        sys.exit(refusal.exit_code)
