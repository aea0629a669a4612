"""What probing every pretraining snapshot of a run found: written as JSON and npz, read back without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.measures.bootstrap import Estimate, bootstrap_present_means
from emergence.measures.paired import PairedComparison, compare_paired
from emergence.plain import plain
from emergence.studies.study import StudyFiles
from emergence.wording import shown

FILES = StudyFiles(
    name="snapshot_probes",
    version=1,
    what="snapshot probes",
    again="run emergence probe-snapshots again",
    kind="emergence-snapshot-probes",
)
#: Scores that every question has; higher is better but for ``brier``.
CURVE_SCORES = ("f1_tokens", "em", "log_prob", "expected_f1", "brier")
#: Scores kept for every question; results of older versions lack ``argument_selection``, which is nan for questions
#: whose sentence has no other argument.
SCORES = (*CURVE_SCORES, "argument_selection")
#: ``gain_bilinear``: what a family adds to words and positions, the score of both together minus that of R_1 alone.
GAIN = "gain_"
#: ``trained``: after some steps. ``initial``: before the first. ``random``: an ordinary random initialisation, the
#: floor, because the recipe's own start can be the identity.
TRAINED, INITIAL, RANDOM = "trained", "initial", "random"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ProbedSnapshot:
    """One trunk, probed.

    Attributes:
        name: ``pretrain_step_64``, ``pretrained``, ``random_0``. kind: ``trained``, ``initial`` or ``random``.
        step, tokens: Of pretraining, done so far.
        weights: Digest of the trunk's weights.
        loss: Of held-out text, a plain ``LanguageModelLoss``.
        probes: Family to the facts of its fit: layer chosen on validation, validation F1 of every layer, ridge...
        scores: Family -> score -> (N,) per test question; under ``gain_bilinear`` and so on differences to R_1 alone.
    """

    name: str
    kind: str
    step: int
    tokens: int
    weights: str
    loss: dict[str, Any]
    probes: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, FloatArray]]

    def facts(self) -> dict[str, Any]:
        """Everything but the per-question scores."""
        return {key: value for key, value in vars(self).items() if key != "scores"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbedSnapshot:
        """The inverse of ``plain``, bit for bit."""
        scores = {
            f: {s: np.array(v, dtype=np.float64) for s, v in columns.items()} for f, columns in values["scores"].items()
        }
        return cls(**{**values, "scores": scores})


@dataclass(frozen=True, eq=False)
class SnapshotProbes:
    """All probed snapshots of one run.

    Attributes:
        run: Run id, size, seed, parameters, pretraining; ``series``: equal for runs that differ in seed alone.
        settings: How it was done: families, layers, questions, seeds, fingerprints of what was read.
        notes: What a reader should know.
        ids, clusters: (N,) test questions and their sentences.
        no_model: Best rule without a model: ``rule``, ``f1_tokens``, ``em``.
        snapshots: In order of training, random trunks last.
        estimates: Snapshot name -> family -> score -> mean with interval.
        differences: The same, paired question by question, against ``initial`` and ``random`` (``random_0``):
            reference -> snapshot name -> family -> score.
        roles: (N,) the role each question asks for (``data.roles``); empty in results older than that.
    """

    run: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    ids: tuple[str, ...]
    clusters: npt.NDArray[np.int64]
    no_model: dict[str, Any]
    snapshots: tuple[ProbedSnapshot, ...]
    estimates: dict[str, dict[str, dict[str, Estimate]]]
    differences: dict[str, dict[str, dict[str, dict[str, dict[str, Any]]]]]
    roles: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.snapshots[0].scores)

    @property
    def path_of_training(self) -> tuple[ProbedSnapshot, ...]:
        """Snapshots of the run itself, its start included."""
        return tuple(s for s in self.snapshots if s.kind != RANDOM)

    @property
    def random(self) -> tuple[ProbedSnapshot, ...]:
        return tuple(s for s in self.snapshots if s.kind == RANDOM)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the per-question scores."""
        points = [
            {
                **snapshot.facts(),
                "scores": plain(self.estimates[snapshot.name]),
                "differences": {
                    reference: by_name[snapshot.name]
                    for reference, by_name in self.differences.items()
                    if snapshot.name in by_name
                },
            }
            for snapshot in self.snapshots
        ]
        return {
            **FILES.header,
            "run": self.run,
            "settings": self.settings,
            "notes": list(self.notes),
            "test": {"questions": len(self.ids), "sentences": len(np.unique(self.clusters))},
            "no_model": self.no_model,
            "snapshots": points,
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Questions, their sentences and roles, and ``snapshot/family/score`` of each question."""
        arrays: dict[str, npt.NDArray[Any]] = {"ids": np.array(self.ids), "clusters": self.clusters}
        if self.roles:
            arrays["roles"] = np.array(self.roles)
        for snapshot in self.snapshots:
            for family, columns in snapshot.scores.items():
                arrays |= {f"{snapshot.name}/{family}/{score}": values for score, values in columns.items()}
        return arrays

    def text(self) -> str:
        """Tables for a terminal."""
        n = f"{len(self.ids):,} test questions of {len(np.unique(self.clusters)):,} sentences"
        lines = [f"{self.run['run_id']}: {len(self.snapshots)} trunks probed, {n}, 95% intervals"]
        lines += [f"note: {note}" for note in self.notes]
        for family in self.families:
            header = f"{'snapshot':<22}{'tokens':>12}{'nats/token':>12}{'bits/byte':>11}  {'token F1':<24}"
            lines += ["", title_of(family), header + f"{'EM':>7}{'log p':>9}  layer"]
            lines += [self._line(snapshot, family) for snapshot in self.snapshots]
        f1 = self.no_model.get("f1_tokens")
        return "\n".join([*lines, "", f"no model: F1 {f1:.3f} ({self.no_model['rule'].replace('_', ' ')})"])

    def _line(self, snapshot: ProbedSnapshot, family: str) -> str:
        scored = self.estimates[snapshot.name][family]
        loss = f"{snapshot.loss['nats_per_token']:>12.3f}{snapshot.loss['bits_per_byte']:>11.3f}"
        scores = f"{shown(scored['f1_tokens']):<24}{scored['em'].point:>7.3f}{scored['log_prob'].point:>9.3f}"
        return f"{snapshot.name:<22}{snapshot.tokens:>12,}{loss}  {scores}  {snapshot.probes[family]['layer']}"


def title_of(family: str) -> str:
    """``bilinear probe``, or what it adds to words and positions, in words."""
    if family.startswith(GAIN):
        return f"what the states add to words and positions, {family.removeprefix(GAIN)} probe (differences)"
    return f"{family} probe"


def summarise(
    snapshots: Sequence[ProbedSnapshot], clusters: npt.NDArray[np.int64], *, n_boot: int, level: float
) -> dict[str, Any]:
    """``estimates`` and ``differences`` of :class:`SnapshotProbes`; equal resamples for all, so they are paired.

    A score counts the questions that have it.
    """
    columns = {
        (s.name, family, score): values
        for s in snapshots
        for family, by_score in s.scores.items()
        for score, values in by_score.items()
    }
    means = bootstrap_present_means(
        {"/".join(key): values for key, values in columns.items()}, clusters, n_boot=n_boot, level=level
    )
    estimates: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, family, score in (key for key in columns if "/".join(key) in means):
        estimates.setdefault(name, {}).setdefault(family, {})[score] = means[f"{name}/{family}/{score}"]
    differences: dict[str, dict[str, Any]] = {}
    for kind in (INITIAL, RANDOM):
        reference = next((s for s in snapshots if s.kind == kind), None)
        if reference is not None:
            differences[kind] = {
                s.name: _differences(s, reference, clusters, n_boot, level) for s in snapshots if s.kind == TRAINED
            }
    return {"estimates": estimates, "differences": differences}


def _differences(
    snapshot: ProbedSnapshot, reference: ProbedSnapshot, clusters: npt.NDArray[np.int64], n_boot: int, level: float
) -> dict[str, dict[str, dict[str, Any]]]:
    def compare(family: str, score: str) -> PairedComparison:
        a, b = snapshot.scores[family][score], reference.scores[family][score]
        rows = np.isfinite(a) & np.isfinite(b)
        return compare_paired(a[rows], b[rows], clusters[rows], n_boot=n_boot, n_permutations=n_boot - 1, level=level)

    def shared(family: str) -> list[str]:
        both = snapshot.scores[family], reference.scores[family]
        return [s for s in both[0] if s in both[1] and (np.isfinite(both[0][s]) & np.isfinite(both[1][s])).any()]

    return {f: {s: plain(compare(f, s)) for s in shared(f)} for f in snapshot.scores}


def read_result(folder: Path) -> SnapshotProbes:
    """The snapshot probes in ``folder``; for errors see :meth:`StudyFiles.read`."""
    return FILES.read(folder, _from_files)


def _from_files(content: dict[str, Any], scores: dict[str, npt.NDArray[Any]]) -> SnapshotProbes:
    snapshots, estimates = [], {}
    differences: dict[str, dict[str, Any]] = {}
    for point in content["snapshots"]:
        name, families = point["name"], point["scores"]
        estimates[name] = {f: {s: Estimate.from_dict(v) for s, v in c.items()} for f, c in families.items()}
        for reference, by_family in point.pop("differences").items():
            differences.setdefault(reference, {})[name] = by_family
        columns = {f: {s: scores[f"{name}/{f}/{s}"] for s in c} for f, c in families.items()}
        snapshots.append(ProbedSnapshot(**{**point, "scores": columns}))
    return SnapshotProbes(
        run=content["run"],
        settings=content["settings"],
        notes=tuple(content["notes"]),
        ids=tuple(scores["ids"].tolist()),
        clusters=scores["clusters"],
        no_model=content["no_model"],
        snapshots=tuple(snapshots),
        estimates=estimates,
        differences=differences,
        roles=tuple(scores["roles"].tolist()) if "roles" in scores else (),
    )
