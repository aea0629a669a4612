"""Information emergence along pretraining: one estimate a snapshot, as JSON and npz, read without torch.

All numbers are in bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emergence.measures.bootstrap import Estimate
from emergence.plain import plain
from emergence.studies.information.result import CONTROLS, InformationResult, Parts, asked_words, result_of
from emergence.studies.study import Arrays, StudyFiles
from emergence.wording import aligned, counted, format_estimate

FILES = StudyFiles(
    name="information_curve",
    version=1,
    what="a curve of information emergence",
    again="run emergence ie --snapshots again",
    kind="emergence-information-curve",
)


@dataclass(frozen=True)
class Place:
    """Where on the way of training an estimate is.

    Attributes:
        name: ``pretrain_step_64``, ``pretrained``; a revision.
        step, tokens_seen: How long it was pretrained; None where that is not known.
        weights: Digest of its weights.
    """

    name: str
    step: int | None
    tokens_seen: int | None
    weights: str


@dataclass(frozen=True, eq=False)
class InformationCurve:
    """What a study of one model's snapshots on one set of texts found, in the order of training.

    Attributes:
        subject: The run or model, and of a model the suspect revisions that were ``left_out``.
        settings: As :class:`InformationResult` has them, the same for all.
        places, results: One of each a snapshot.
    """

    subject: dict[str, Any]
    settings: dict[str, Any]
    places: tuple[Place, ...]
    results: tuple[InformationResult, ...]

    @property
    def n(self) -> int:
        """Pairs of one estimate: half the texts."""
        return int(self.settings["n"]) // 2

    def change(self, control: str) -> Estimate:
        """How the mean ΔIE over the blocks after the first moved from the first snapshot to the last.

        Both have read the same texts, so the seeds are paired.
        """
        first, last = (result.emergence.parts(control, None) for result in (self.results[0], self.results[-1]))
        closed = np.hypot(first.closed, last.closed)
        return Parts(last.apart - first.apart, closed, last.quarters - first.quarters).estimate(self.n)

    def to_dict(self) -> dict[str, Any]:
        points = [
            {
                **vars(place),
                "conclusion": result.conclusion[0],
                "mean": {control: plain(result.emergence.difference(control, None, self.n)) for control in CONTROLS},
                "usable_information": {family: plain(found) for family, found in result.usable.items()},
                "rows": list(result.rows),
            }
            for place, result in zip(self.places, self.results, strict=True)
        ]
        return {
            **FILES.header,
            "subject": self.subject,
            "settings": self.settings,
            "unit": "bits",
            "layers": list(self.results[0].layers),
            "change": {control: plain(self.change(control)) for control in CONTROLS},
            "points": points,
        }

    def arrays(self) -> Arrays:
        """Of every snapshot p the arrays of its result: (P, C, S, L), and (P, C, S, L, 4) quarters (``blocks``)."""
        each = [result.arrays() for result in self.results]
        return {name: np.stack([arrays[name] for arrays in each]) for name in each[0]}

    def text(self) -> str:
        """For a terminal: a line a snapshot, then what moved."""
        settings = self.settings
        lines = [
            f"{self.subject['name']} on {settings['texts']}, {settings['length']} tokens, "
            f"{counted(len(self.places), 'snapshot')}: information emergence minus that of each control, bits, mean "
            f"over the blocks after the first, {counted(len(settings['seeds']), 'seed')}, 95% intervals",
            *(f"left out: {name}: {reason}" for name, reason in self.subject.get("left_out", {}).items()),
            "",
        ]
        families = list(dict.fromkeys(family for result in self.results for family in result.usable))
        head = ["", "step", "tokens", *(f"minus {control}" for control in CONTROLS), "(raw)"]
        table = [[*head, *(f"usable, {family}" for family in families)]]
        for place, result in zip(self.places, self.results, strict=True):
            apart = (result.emergence.difference(control, None, self.n) for control in CONTROLS)
            usable = (result.usable.get(family) for family in families)
            table.append([
                place.name, _count(place.step), _count(place.tokens_seen),
                *(format_estimate(one, signed=True) for one in apart), f"({result.emergence.raw_mean:.2f})",
                *("" if one is None else format_estimate(one, 3, signed=True) for one in usable),
            ])  # fmt: skip
        lines += aligned(table)
        lines += ["", f"From {self.places[0].name} to {self.places[-1].name}:"]
        return "\n".join([*lines, *(f"  minus {control}: {self.told(control)}" for control in CONTROLS)])

    def asked(self) -> str:
        """What was asked, in words, for curves that differ in nothing else."""
        return asked_words(self.settings, self.results[0].layers)

    def told(self, control: str) -> str:
        """:meth:`change` in words."""
        found = self.change(control)
        if not math.isfinite(found.point):
            return "no number, because rows were refused"
        words = "more" if found.lo > 0 else "less" if found.hi < 0 else "no change shown"
        return f"{words} ({format_estimate(found, signed=True)} bits)"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def read_result(folder: Path) -> InformationCurve:
    """The curve in ``folder``. The errors are those of :meth:`StudyFiles.read`."""
    return FILES.read(folder, _from_files)


def _from_files(content: dict[str, Any], arrays: Arrays) -> InformationCurve:
    layers = [int(layer) for layer in content["layers"]]
    places, results = [], []
    for point in content["points"]:
        places.append(Place(**{name: point[name] for name in ("name", "step", "tokens_seen", "weights")}))
        usable = {family: Estimate.from_dict(found) for family, found in point["usable_information"].items()}
        results.append(result_of(content["subject"], content["settings"], layers, point["rows"], usable))
    curve = InformationCurve(content["subject"], content["settings"], tuple(places), tuple(results))
    if any(not np.array_equal(arrays[name], mine, equal_nan=True) for name, mine in curve.arrays().items()):
        raise ValueError("the rows are not those of its arrays")
    curve.text()  # reads every number that somebody asks for, so that what is malformed is known here
    return curve
