"""What trunks answer from a prompt, written as JSON and npz, and read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.measures.bootstrap import Estimate, bootstrap_present_means
from emergence.plain import plain
from emergence.studies.study import StudyFiles
from emergence.wording import aligned, counted, shown

FILES = StudyFiles(
    name="prompted",
    version=1,
    what="answers from prompts",
    again="run emergence fewshot again",
    kind="emergence-prompted",
)
#: How a span is scored: by its log-probability after the prompt, or by that less the one without the questions.
RAW, PMI = "raw", "pmi"
RULES = (RAW, PMI)
#: Scores of every rule. ``gold_nats``, of the raw one alone, is the log-probability that a gold is written and ends.
SCORES = ("f1_tokens", "em", "log_prob", "expected_f1")
GOLD_NATS = "gold_nats"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PromptedTrunk:
    """One trunk's answers from prompts of one number of shots.

    Attributes:
        name: ``pretrained``, ``pretrain_step_64``, ``random``.
        shots: Training questions in a prompt.
        step, tokens_seen: How long it was pretrained; None where that is not known.
        weights: Digest of its weights.
        loss: On held-out text, a plain ``LanguageModelLoss``, as the results of runs have it.
        scores: Rule -> score -> (N,), nan for questions whose prompt does not fit.
        predictions: Rule -> (N, 2) first and last word, -1 for those questions.
    """

    name: str
    shots: int
    step: int | None
    tokens_seen: int | None
    weights: str
    loss: dict[str, Any]
    scores: dict[str, dict[str, FloatArray]]
    predictions: dict[str, npt.NDArray[np.int64]]

    @property
    def label(self) -> str:
        """Its place among the arrays: ``pretrained/5``."""
        return f"{self.name}/{self.shots}"

    @property
    def n_answered(self) -> int:
        return int(np.isfinite(self.scores[RAW]["em"]).sum())

    def facts(self) -> dict[str, Any]:
        """Everything but what is of single questions."""
        values = {key: value for key, value in vars(self).items() if key not in ("scores", "predictions")}
        return {**values, "n_answered": self.n_answered}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PromptedTrunk:
        """The inverse of ``plain``, bit for bit."""
        scores = {
            rule: {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
            for rule, columns in values["scores"].items()
        }
        predictions = {rule: np.array(spans, dtype=np.int64) for rule, spans in values["predictions"].items()}
        return cls(**{**values, "scores": scores, "predictions": predictions})


@dataclass(frozen=True, eq=False)
class PromptedResult:
    """All prompted trunks of one run.

    Attributes:
        subject: The run: name, size, seed.
        settings: Questions, longest span, marks, seed, and fingerprints of what was read.
        notes: What a reader should know.
        ids, clusters: (N,) ids of the test questions, and their sentences.
        no_model: The best rule without a model: ``rule``, ``f1_tokens``, ``em``; and a span drawn at random.
        trunks: In the order of training, for each number of shots.
        estimates: For each of them rule -> score -> mean with interval.
    """

    subject: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    ids: tuple[str, ...]
    clusters: npt.NDArray[np.int64]
    no_model: dict[str, Any]
    trunks: tuple[PromptedTrunk, ...]
    estimates: tuple[dict[str, dict[str, Estimate]], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without what is of single questions."""
        points = [
            {**trunk.facts(), "scores": plain(found)} for trunk, found in zip(self.trunks, self.estimates, strict=True)
        ]
        return {
            **FILES.header,
            "subject": self.subject,
            "settings": self.settings,
            "notes": list(self.notes),
            "test": {"questions": len(self.ids), "sentences": len(np.unique(self.clusters))},
            "no_model": self.no_model,
            "trunks": points,
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Ids and sentences of the questions, under ``trunk/shots/rule/score`` their scores, ``.../span`` the spans."""
        arrays: dict[str, npt.NDArray[Any]] = {"ids": np.array(self.ids), "clusters": self.clusters}
        for trunk in self.trunks:
            for rule, columns in trunk.scores.items():
                arrays |= {f"{trunk.label}/{rule}/{score}": values for score, values in columns.items()}
                arrays[f"{trunk.label}/{rule}/span"] = trunk.predictions[rule]
        return arrays

    def text(self) -> str:
        """A table for a terminal for each number of shots."""
        n = f"{counted(len(self.ids), 'test question')} of {counted(len(np.unique(self.clusters)), 'sentence')}"
        lines = [f"{self.subject['name']}: answered from prompts, {n}, {self.settings['level']:.0%} intervals"]
        lines += [f"note: {note}" for note in self.notes]
        for shots in dict.fromkeys(trunk.shots for trunk in self.trunks):
            rows = [
                ["trunk", "tokens", "nats/token", "F1", "EM", "log p", "F1 by PMI", "EM", "log p", "log p of a gold"]
            ]
            for trunk, found in zip(self.trunks, self.estimates, strict=True):
                if trunk.shots == shots:
                    rows.append(_row(trunk, found))
            lines += ["", f"{counted(shots, 'shot')}", *aligned(rows)]
        rule = self.no_model["rule"].replace("_", " ")
        chance = (
            f"no model: F1 {self.no_model['f1_tokens']:.3f} ({rule}), {self.no_model['uniform_f1']:.3f} (at random)"
        )
        return "\n".join([*lines, "", chance])


def _row(trunk: PromptedTrunk, found: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    tokens = "-" if trunk.tokens_seen is None else f"{trunk.tokens_seen:,}"
    row = [trunk.name, tokens, f"{trunk.loss['nats_per_token']:.3f}"]
    for rule in RULES:
        of_rule = found[rule]
        row += [shown(of_rule["f1_tokens"]), *(f"{of_rule[score].point:.3f}" for score in ("em", "log_prob"))]
    nats = found[RAW].get(GOLD_NATS)  # there is none if no gold is short enough
    return [*row, f"{nats.point:.2f}" if nats else "-"]


def summarise(
    trunk: PromptedTrunk, clusters: npt.NDArray[np.int64], *, n_boot: int, level: float
) -> dict[str, dict[str, Estimate]]:
    """Rule -> score -> mean over the questions that were answered."""
    columns = {(rule, score): values for rule, scores in trunk.scores.items() for score, values in scores.items()}
    named = {"/".join(key): values for key, values in columns.items()}
    means = bootstrap_present_means(named, clusters, n_boot=n_boot, level=level)
    return {
        rule: {score: means[f"{rule}/{score}"] for score in scores if f"{rule}/{score}" in means}
        for rule, scores in trunk.scores.items()
    }


def read_result(folder: Path) -> PromptedResult:
    """The answers in ``folder``. The errors are those of :meth:`StudyFiles.read`."""
    return FILES.read(folder, _from_files)


def _from_files(content: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> PromptedResult:
    trunks, estimates = [], []
    for point in content["trunks"]:
        place, means = f"{point['name']}/{point['shots']}", point.pop("scores")
        point.pop("n_answered")
        scores = {rule: {s: arrays[f"{place}/{rule}/{s}"] for s in columns} for rule, columns in means.items()}
        predictions = {rule: arrays[f"{place}/{rule}/span"] for rule in means}
        trunks.append(PromptedTrunk(**point, scores=scores, predictions=predictions))
        estimates.append(
            {rule: {s: Estimate.from_dict(v) for s, v in columns.items()} for rule, columns in means.items()}
        )
    if not trunks:
        raise ValueError("it holds no trunks")
    result = PromptedResult(
        subject=content["subject"],
        settings=content["settings"],
        notes=tuple(content["notes"]),
        ids=tuple(arrays["ids"].tolist()),
        clusters=arrays["clusters"],
        no_model=content["no_model"],
        trunks=tuple(trunks),
        estimates=tuple(estimates),
    )
    result.text()  # reads every number that somebody asks for, so that what is malformed is known here
    return result
