"""What this process was given: variables, which the processes that it starts inherit, and cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

#: Variables from which the libraries below torch and numpy take their number of threads; torch itself the first.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set them while the ``with`` lasts; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def usable_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads_asked_for(variable: str = THREAD_VARIABLES[0]) -> int | None:
    """How many threads a variable says; None where it says nothing that is a number of threads."""
    threads = os.environ.get(variable, "")
    return int(threads) if threads.isdecimal() and int(threads) > 0 else None
