"""Does semantic-role understanding emerge from next-token prediction alone?

The package is read from the bottom up: ``measures`` (pure mathematics), ``spec`` (one frozen description of an
experiment), ``data`` and ``model``, ``training``, ``answering`` (how a trunk answers), ``experiment`` (run
directories), ``studies``, ``findings``, ``report``, ``sweep``, ``remote`` (Modal), ``api``, ``commands`` and ``cli``.
ARCHITECTURE.md draws the map; a test enforces the direction of the imports.

The Python interface, :mod:`emergence.api`, is imported when one of its names is asked for: ``emergence.run``, ``load``,
``score``, ``compare``, ``verdict``, ``ask``. Everything else imports without torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_INTERFACE = ("ask", "compare", "load", "run", "score", "verdict")


def __getattr__(name: str) -> Any:
    if name in _INTERFACE:
        return getattr(importlib.import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_INTERFACE])
