"""The result of a temporal CKA, written as JSON and npz, read back, and told in a few tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from emergence.studies.study import StudyFiles
from emergence.wording import aligned, format_interval

if TYPE_CHECKING:  # reading a result needs no torch
    from emergence.studies.cka.views import View
    from emergence.studies.trunks import TimelinePoint

#: Stored in the JSON, so that readers of run results pass over those of models, which lie beside the runs.
KIND = "emergence-temporal-cka"
FILES = StudyFiles(name="temporal_cka", version=1, what="a temporal CKA", again="run the analysis again")
#: What the two runs are called in the keys of the arrays.
RUN_NAMES = ("run", "against")
#: Arrays that stand in the npz alone. The other curves are small enough to stand in the JSON too.
_HEATMAPS = ("layers", "from_start")
_WHAT = {
    "sentence/raw": "sentences (mean over tokens)",
    "sentence/residual": "sentences, without what their token types explain",
    "predicate/raw": "predicates",
    "predicate/residual": "predicates, without what their token types explain",
}
_LEGEND = (
    "untrained: CKA with randomly initialised networks; excess: what is left of the way from there to 1",
    "noise: the start moved as far in a random direction; p: of no correspondence, by permuting sentences",
    "twin, control: another seed of the same finetuning; the same finetuning on control labels",
    "angle: degrees left after the best rotation; neighbours: share of nearest rows kept",
)


class History(Protocol):
    """What a result tells of: the timeline of a run, or a published model's revisions."""

    @property
    def name(self) -> str: ...
    @property
    def facts(self) -> dict[str, Any]:
        """``run_id``, ``experiment_id``, ``config_name``, ``condition`` and ``seed``."""

    @property
    def reference(self) -> str:
        """What points are compared with, in words: ``the start``."""

    @property
    def checkpoints(self) -> tuple[TimelinePoint, ...]: ...
    @property
    def finetuned(self) -> tuple[TimelinePoint, ...]: ...
    @property
    def start_index(self) -> int: ...
    @property
    def n_levels(self) -> int: ...
    @property
    def trunk_never_moved(self) -> bool: ...


@dataclass(frozen=True, eq=False)
class TemporalCKA:
    """Everything that one call compared.

    Attributes:
        timelines: The run or model, and the run that it is compared with, if there is one.
        views: For each run, ``<rows>/<pass>`` (such as ``sentence/raw``) -> its curves.
        cross: ``<rows>/<pass>`` -> ``start`` and ``last``: CKA of the first run's levels with the second's.
        missing: For each run, name of a null comparison -> why it is not there.
        n_sentences, n_predicates: How many rows of either kind were compared.
        probe_fingerprint: Identity of the sentences. Analyses with equal ones are comparable.
        notes: What a reader should know.
        settings: How it was computed.
    """

    timelines: tuple[History, ...]
    views: tuple[dict[str, View], ...]
    cross: dict[str, dict[str, npt.NDArray[np.float64]]]
    missing: tuple[dict[str, str], ...]
    n_sentences: int
    n_predicates: int
    probe_fingerprint: str
    notes: tuple[str, ...]
    settings: dict[str, Any]

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """All arrays: ``run/sentence/raw/drift``, ``against/...``, ``cross/sentence/raw/last``."""
        arrays: dict[str, npt.NDArray[np.float64]] = {}
        for name, views in zip(RUN_NAMES, self.views, strict=False):
            for rows, view in views.items():
                arrays |= {f"{name}/{rows}/{key}": array for key, array in view.arrays().items()}
        for rows, blocks in self.cross.items():
            arrays |= {f"cross/{rows}/{key}": array for key, array in blocks.items()}
        return arrays

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; undefined values become null."""
        return {
            **FILES.header,
            "kind": KIND,
            "settings": self.settings,
            "probe": {
                "sentences": self.n_sentences,
                "predicates": self.n_predicates,
                "fingerprint": self.probe_fingerprint,
            },
            "notes": list(self.notes),
            "runs": [
                _run_dict(timeline, views, missing)
                for timeline, views, missing in zip(self.timelines, self.views, self.missing, strict=True)
            ],
            "cross": {rows: {key: a.tolist() for key, a in blocks.items()} for rows, blocks in self.cross.items()},
        }

    def summary(self) -> str:
        """Tables for a terminal."""
        s = self.settings
        kernel = "linear" if s["kernel"] == "linear" else f"rbf (bandwidth {s['bandwidth']:g})"
        lines = [f"{s['estimator']} {kernel} CKA on {self.n_sentences:,} sentences, {self.n_predicates:,} predicates"]
        lines += [f"note: {note}" for note in self.notes]
        for timeline, views, missing in zip(self.timelines, self.views, self.missing, strict=True):
            lines += ["", *_run_lines(timeline, views, missing, s)]
        if self.cross:
            lines += ["", *_cross_lines(self)]
        return "\n".join([*lines, "", *_LEGEND])


def read_result(folder: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float64]]]:
    """The JSON's content and the arrays of the temporal CKA in ``folder``. :meth:`StudyFiles.read` has the errors."""
    return FILES.read(folder, lambda content, arrays: (content, arrays))


def _run_dict(timeline: History, views: Mapping[str, View], missing: Mapping[str, str]) -> dict[str, Any]:
    return {
        **timeline.facts,
        "reference": timeline.reference,
        "n_levels": timeline.n_levels,
        "start_index": timeline.start_index,
        "trunk_never_moved": timeline.trunk_never_moved,
        "checkpoints": [
            {"name": p.name, "phase": p.phase, "weights": p.source.key, **p.facts} for p in timeline.checkpoints
        ],
        "missing": dict(missing),
        "views": {rows: _view_dict(view) for rows, view in views.items()},
    }


def _view_dict(view: View) -> dict[str, Any]:
    curves = {key: array.tolist() for key, array in view.arrays().items() if key not in _HEATMAPS}
    permutation = [asdict(test) if test else None for test in view.permutation]
    flags = [list(level) for level in view.flags]
    return {**curves, "neighbours_chance": view.neighbours_chance, "permutation": permutation, "flags": flags}


# Tables -----------------------------------------------------------------------------------------


def _run_lines(
    timeline: History, views: Mapping[str, View], missing: Mapping[str, str], settings: Mapping[str, Any]
) -> list[str]:
    before, after = timeline.start_index, len(timeline.finetuned)
    lines = [f"{timeline.name}: {before} pretraining checkpoints, {timeline.reference}, {after} of finetuning"]
    if timeline.trunk_never_moved:
        furthest = max(float(np.nanmax(np.abs(1.0 - view.drift[before:]))) for view in views.values())
        lines.append(
            "  Its finetuning checkpoints hold the start's trunk weight for weight, so their CKA with it is 1 by "
            f"construction: a check of this program, not a finding (largest |1 - CKA|: {furthest:.1e})."
        )
    for reason in dict.fromkeys(missing.values()):
        names = ", ".join(name for name, why in missing.items() if why == reason)
        lines.append(f"  no {names} comparison: {reason}")
    point, row = _checkpoint_shown(timeline)
    if row == timeline.start_index:
        return [*lines, "  There is one checkpoint only: nothing to compare over time."]
    if timeline.trunk_never_moved:
        for rows, view in views.items():
            lines += ["", f"  {_WHAT[rows]}: its trunk against untrained ones", *_untrained(view, row)]
        return lines
    for rows, view in views.items():
        against = f"{point} against {timeline.reference}"
        lines += ["", f"  {_WHAT[rows]}: {against}", *_table(view, row, settings["level"])]
    rows, view = next(iter(views.items()))
    against = f"every checkpoint against {timeline.reference}"
    return [*lines, "", f"  {_WHAT[rows]}: {against}", *_over_time(timeline, view)]


def _checkpoint_shown(timeline: History) -> tuple[str, int]:
    """Name and index of the checkpoint that tables show: the last, or the first where nothing was finetuned."""
    index = len(timeline.checkpoints) - 1 if timeline.finetuned else 0
    return timeline.checkpoints[index].name, index


def _table(view: View, row: int, level: float) -> list[str]:
    """One line for each level, with the columns that are not empty."""
    ends = zip(view.drift[row], view.drift_lo[row], view.drift_hi[row], strict=True)
    drift = [format_interval(*at, 3) if math.isfinite(at[0]) else "undefined" for at in ends]
    random = view.random[:, row]
    columns: dict[str, Sequence[str]] = {
        "level": _level_names(view),
        f"CKA [{level:.0%}]": drift,
        "untrained": _numbers(random.mean(axis=0)) if len(random) else [],
        "excess": _numbers(view.excess[row]) if len(random) else [],
        "noise": _numbers(view.noise[row]),
        "twin": _numbers(view.twin),
        "control": _numbers(view.control[-1]) if len(view.control) else [],
        "p": [f"{test.p_value:.3f}" if test else "" for test in view.permutation],
        "angle": _numbers(np.degrees(view.procrustes[row]), 1),
        "neighbours": _numbers(view.neighbours[row]),
    }
    return _columns({name: cells for name, cells in columns.items() if any(cells)})


def _untrained(view: View, row: int) -> list[str]:
    """Mean and range of the CKA with untrained trunks."""
    random = view.random[:, row]
    if not len(random):
        return []
    parts = {"mean": random.mean(axis=0), "least": random.min(axis=0), "most": random.max(axis=0)}
    return _columns({"level": _level_names(view), **{name: _numbers(values) for name, values in parts.items()}})


def _over_time(timeline: History, view: View) -> list[str]:
    """Similarity to the start, one line for each checkpoint."""
    columns: dict[str, Sequence[str]] = {"checkpoint": [point.name for point in timeline.checkpoints]}
    for level, name in enumerate(_level_names(view)):
        columns[name] = _numbers(view.drift[:, level])
    return _columns(columns)


def _columns(columns: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"    {line}" for line in aligned([tuple(columns), *zip(*columns.values(), strict=True)])]


def _level_names(view: View) -> list[str]:
    return ["embeddings", *map(str, range(1, view.drift.shape[1]))]


def _numbers(values: npt.NDArray[np.float64], digits: int = 3) -> list[str]:
    return [f"{value:.{digits}f}" if math.isfinite(value) else "" for value in values]


def _cross_lines(result: TemporalCKA) -> list[str]:
    left, right = (timeline.name for timeline in result.timelines)
    lines = [f"{left} against {right}, last checkpoints: most similar level"]
    for rows, blocks in result.cross.items():
        block = blocks["last"]
        best = [_best(row) for row in block]
        lines.append(f"  {_WHAT[rows]}")
        lines += [f"    level {i:<3} {text}" for i, text in enumerate(best)]
    return lines


def _best(row: npt.NDArray[np.float64]) -> str:
    if not np.isfinite(row).any():
        return "undefined"
    level = int(np.nanargmax(row))
    return f"level {level:<3} {row[level]:.3f}"
