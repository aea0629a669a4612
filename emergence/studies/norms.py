"""Trial: the norm of the embedding rows of every kept trunk of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emergence.model import Trunk
from emergence.studies.study import Cell, Study, StudyFiles
from emergence.studies.trunks import Timeline
from emergence.training.recording import Progress


@dataclass(frozen=True)
class Norms:
    """Mean norm of the embedding rows, (points,)."""

    names: tuple[str, ...]
    norms: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {**NormStudy.files.header, "points": dict(zip(self.names, self.norms.tolist(), strict=True))}

    def arrays(self) -> dict[str, np.ndarray]:
        return {"norms": self.norms}


class NormStudy(Study[dict[str, float], Norms]):
    """A cell is the norm of one trunk."""

    files = StudyFiles(name="norms", version=1, what="norms", again="compute them again")

    def __init__(self, timeline: Timeline) -> None:
        self._points = timeline.points if hasattr(timeline, "points") else timeline.checkpoints

    def cells(self, folder: Path) -> list[Cell[dict[str, float]]]:
        return [Cell(p.name, p.source.key[:24], partial(self._norm, p)) for p in self._points]

    def _norm(self, point: Any, progress: Progress) -> dict[str, float]:
        trunk = point.source.build()
        assert isinstance(trunk, Trunk)
        return {"norm": float(trunk.embedding.weight.norm(dim=1).mean())}

    def restore(self, content: dict[str, Any]) -> dict[str, float]:
        return content

    def result(self, made: Sequence[dict[str, float]]) -> Norms:
        return Norms(tuple(p.name for p in self._points), np.array([m["norm"] for m in made]))
