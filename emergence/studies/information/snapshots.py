"""Information emergence of every snapshot of a run, or of every revision of a published model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emergence.studies.information.curve import FILES, InformationCurve, Place
from emergence.studies.information.measure import InformationStudy, Row
from emergence.studies.study import Cell, SealedStudy


class InformationCurveStudy(SealedStudy[Row, InformationCurve]):
    """The cells of one study a snapshot. Random twins are the same for all, and are measured once.

    Args:
        subject: The run or model.
        studies: Place and study of every snapshot, in the order of training, on the same texts.
    """

    files = FILES
    noun = "layer"
    steps = "layers"

    def __init__(self, subject: dict[str, Any], studies: Sequence[tuple[Place, InformationStudy]]) -> None:
        self._subject, self._studies = subject, tuple(studies)

    def cells(self, folder: Path) -> list[Cell[Row]]:
        return [
            replace(cell, name=f"{place.name}, {cell.name}")
            for place, study in self._studies
            for cell in study.cells(folder)
        ]

    def restore(self, content: dict[str, Any]) -> Row:
        return content

    def result(self, made: Sequence[Row]) -> InformationCurve:
        each = len(made) // len(self._studies)
        parts = [made[i * each : (i + 1) * each] for i in range(len(self._studies))]
        results = tuple(study.result(rows) for (_, study), rows in zip(self._studies, parts, strict=True))
        places = tuple(place for place, _ in self._studies)
        return InformationCurve(self._subject, results[0].settings, places, results)
