"""The result of probing every pretraining snapshot of a run, written as JSON and npz, and read without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.measures.bootstrap import Estimate, bootstrap_present_means
from emergence.measures.paired import compare_paired_together
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
#: Scores that every question has. Higher is better, except for ``brier``.
CURVE_SCORES = ("f1_tokens", "em", "log_prob", "expected_f1", "brier")
#: Scores kept for every question. ``argument_selection`` is nan for questions whose sentence has no other argument, and
#: is missing in results of older versions.
SCORES = (*CURVE_SCORES, "argument_selection")
#: ``gain_bilinear`` is what states add to words and positions: the score of both together minus that of R_1 alone.
GAIN = "gain_"
#: A trunk is ``trained`` after some steps and ``initial`` before the first. ``random`` is the floor, an ordinary random
#: initialisation, because the recipe's own start can be the identity.
TRAINED, INITIAL, RANDOM = "trained", "initial", "random"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ProbedSnapshot:
    """One trunk, probed.

    Attributes:
        name: ``pretrain_step_64``, ``pretrained``, ``random_0``... kind: ``trained``, ``initial`` or ``random``.
        step, tokens: Steps of pretraining so far, and tokens seen.
        weights: Digest of the trunk's weights.
        loss: Loss on held-out text, a plain ``LanguageModelLoss``.
        probes: Family -> facts of its fit, such as the layer chosen on validation and the ridge.
        scores: Family -> score -> (N,) values, one for each test question. ``gain_bilinear`` holds differences to R_1.
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
        """Everything but the scores of single questions."""
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
        run: Run id, size, seed, parameters and pretraining. ``series`` is equal for runs that differ in seed alone.
        settings: How it was done: families, layers, questions, seeds, and fingerprints of what was read.
        notes: What a reader should know.
        ids, clusters: (N,) ids of the test questions, and their sentences.
        no_model: The best rule without a model: ``rule``, ``f1_tokens``, ``em``; and ``words_f1_tokens`` of the scorer
            of words and positions that the states add to (absent in older results).
        snapshots: Snapshots in the order of training, and then random trunks.
        estimates: Snapshot name -> family -> score -> mean with interval.
        differences: Reference -> snapshot name -> family -> score -> difference, paired question by question. The
            references are ``initial`` and ``random``, which is the trunk ``random_0``.
        roles: (N,) the role that each question asks for (``data.roles``); empty in older results.
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
        """Snapshots of the run itself, including its start."""
        return tuple(s for s in self.snapshots if s.kind != RANDOM)

    @property
    def random(self) -> tuple[ProbedSnapshot, ...]:
        return tuple(s for s in self.snapshots if s.kind == RANDOM)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the scores of single questions."""
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
        """Ids, sentences and roles of the questions, and under ``snapshot/family/score`` their scores."""
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
        level = f"{self.settings.get('level', 0.95):.0%} intervals"
        lines = [f"{self.run['run_id']}: {len(self.snapshots)} trunks probed, {n}, {level}"]
        lines += [f"note: {note}" for note in self.notes]
        for family in self.families:
            header = f"{'snapshot':<22}{'tokens':>12}{'nats/token':>12}{'bits/byte':>11}  {'token F1':<24}"
            lines += ["", title_of(family), header + f"{'EM':>7}{'log p':>9}  layer"]
            lines += [self._line(snapshot, family) for snapshot in self.snapshots]
        told = f"no model: F1 {self.no_model['f1_tokens']:.3f} ({self.no_model['rule'].replace('_', ' ')})"
        if (words := self.no_model.get("words_f1_tokens")) is not None:
            told += f", {words:.3f} (words and positions, to which the states add)"
        return "\n".join([*lines, "", told])

    def _line(self, snapshot: ProbedSnapshot, family: str) -> str:
        scored = self.estimates[snapshot.name][family]
        loss = f"{snapshot.loss['nats_per_token']:>12.3f}{snapshot.loss['bits_per_byte']:>11.3f}"
        scores = f"{shown(scored['f1_tokens']):<24}{scored['em'].point:>7.3f}{scored['log_prob'].point:>9.3f}"
        return f"{snapshot.name:<22}{snapshot.tokens:>12,}{loss}  {scores}  {snapshot.probes[family]['layer']}"


def title_of(family: str) -> str:
    """A family in words, such as ``bilinear probe``."""
    if family.startswith(GAIN):
        return f"what the states add to words and positions, {family.removeprefix(GAIN)} probe (differences)"
    return f"{family} probe"


def summarise(
    snapshots: Sequence[ProbedSnapshot], clusters: npt.NDArray[np.int64], *, n_boot: int, level: float
) -> dict[str, Any]:
    """``estimates`` and ``differences`` of :class:`SnapshotProbes`.

    All scores share their resamples, so they are paired. A score's mean is over the questions that have it.
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
    return {"estimates": estimates, "differences": _differences(snapshots, clusters, n_boot, level)}


def _differences(
    snapshots: Sequence[ProbedSnapshot], clusters: npt.NDArray[np.int64], n_boot: int, level: float
) -> dict[str, dict[str, Any]]:
    """Kind of the reference -> snapshot -> family -> score -> comparison, over the questions that have both scores."""
    differences: dict[str, dict[str, Any]] = {}
    places: list[tuple[str, str, str, str]] = []
    asked: list[tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]] = []
    for kind in (INITIAL, RANDOM):
        reference = next((s for s in snapshots if s.kind == kind), None)
        if reference is None:
            continue
        differences[kind] = {s.name: {family: {} for family in s.scores} for s in snapshots if s.kind == TRAINED}
        for snapshot in (s for s in snapshots if s.kind == TRAINED):
            for family, ours in snapshot.scores.items():
                theirs = reference.scores[family]
                for score in (score for score in ours if score in theirs):
                    rows = np.isfinite(ours[score]) & np.isfinite(theirs[score])
                    if rows.any():
                        places.append((kind, snapshot.name, family, score))
                        asked.append((ours[score][rows], theirs[score][rows], clusters[rows]))
    compared = compare_paired_together(asked, n_boot=n_boot, n_permutations=n_boot - 1, level=level)
    for (kind, name, family, score), comparison in zip(places, compared, strict=True):
        differences[kind][name][family][score] = plain(comparison)
    return differences


def read_result(folder: Path) -> SnapshotProbes:
    """The snapshot probes in ``folder``. The errors are those of :meth:`StudyFiles.read`."""
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
