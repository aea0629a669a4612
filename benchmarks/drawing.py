"""A figure of the documentation: one style, and bytes that follow from the data alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def saved_canvas(file: Path, width: float, height: float) -> Iterator[Any]:
    """A figure, inches wide and high, that is in ``file`` after the ``with``."""
    import matplotlib
    from matplotlib.figure import Figure

    file.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(
        {"font.size": 8, "svg.hashsalt": "emergence", "axes.spines.top": False, "axes.spines.right": False}
    ):
        canvas = Figure(figsize=(width, height), layout="constrained")
        yield canvas
        canvas.savefig(file, metadata={"Date": None})
