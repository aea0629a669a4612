"""How often models prefer the better sentence of a pair, written as JSON and npz, and read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.measures.bootstrap import Estimate
from emergence.measures.sentence_pairs import SentencePairScores
from emergence.studies.study import StudyFiles
from emergence.wording import aligned, counted, gained, shown

FILES = StudyFiles(
    name="minimal_pairs",
    version=1,
    what="scores of minimal pairs",
    again="run emergence minimal-pairs again",
    kind="emergence-minimal-pairs",
)


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """One model, scored.

    Attributes:
        name: ``pretrained``, ``pretrain_step_64``; a revision, or ``main``.
        step, tokens_seen: How long it was pretrained; None where that is not known.
        weights: Digest of its weights.
        bos: The token that stood before a sentence with BOS; None for a model that has none.
        scores: What it gives every pair.
    """

    name: str
    step: int | None
    tokens_seen: int | None
    weights: str
    bos: int | None
    scores: SentencePairScores

    def facts(self) -> dict[str, Any]:
        """Everything but the scores of single pairs."""
        return {key: value for key, value in vars(self).items() if key != "scores"}


@dataclass(frozen=True, eq=False)
class PairStudyResult:
    """All scored models of one run, or all revisions of one published model.

    Attributes:
        subject: What was scored: ``name``, and of a run its size and seed.
        settings: The set of pairs: name, fingerprint, facts (files, baselines).
        models: Models in the order of their training.
        summaries: For each of them ``SentencePairScores.summary``.
    """

    subject: dict[str, Any]
    settings: dict[str, Any]
    models: tuple[ScoredModel, ...]
    summaries: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the scores of single pairs."""
        points = [{**model.facts(), **summary} for model, summary in zip(self.models, self.summaries, strict=True)]
        return {**FILES.header, "subject": self.subject, "settings": self.settings, "models": points}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Items and kinds of the pairs, and under ``model/context/nats`` and ``.../tokens`` the (P, 2) scores."""
        first = self.models[0].scores
        arrays: dict[str, npt.NDArray[Any]] = {"bytes": first.n_bytes}
        arrays |= {"items": np.array(first.clusters), "kinds": np.array(first.kinds)}
        for model in self.models:
            for context, nats in model.scores.nats.items():
                arrays[f"{model.name}/{context}/nats"] = nats
                arrays[f"{model.name}/{context}/tokens"] = model.scores.n_tokens[context]
        return arrays

    def text(self) -> str:
        """Tables for a terminal: every rule, then the kinds of the last model."""
        n = counted(self.summaries[0]["n_pairs"], "pair")
        lines = [f"{self.subject['name']}: {self.settings['name']}, {n}, chance 0.500, 95% intervals"]
        for name, accuracy in self.settings["facts"].get("baselines", {}).items():
            lines.append(f"a {name} model of words: {accuracy:.3f}")
        lines += [f"left out: {name}: {reason}" for name, reason in self.subject.get("left_out", {}).items()]
        rules = list(self.summaries[0]["accuracy"])
        rows = [["", *(_words(rule) for rule in rules)]]
        for model, summary in zip(self.models, self.summaries, strict=True):
            rows.append([model.name, *(_shown(summary["accuracy"], rule) for rule in rules)])
        lines += ["", *aligned(rows)]
        last = self.summaries[-1]
        rows = [[self.models[-1].name, *(_words(rule) for rule in rules)]]
        if len(last["by_kind"]) > 1:
            rows += [[kind, *(_shown(found, rule) for rule in rules)] for kind, found in last["by_kind"].items()]
        if last["whole_items"]:
            rows.append(["all of an item", *(_shown(last["whole_items"], rule) for rule in rules)])
        per_byte = last["bits_per_byte_difference"]
        rows.append(["bits per byte", *(_gained(per_byte, rule) for rule in rules)])
        return "\n".join([*lines, "", *aligned(rows)])


def _words(rule: str) -> str:
    return rule.replace("_", " ")


def _shown(found: Mapping[str, Any], rule: str) -> str:
    return shown(Estimate.from_dict(found[rule]))


def _gained(found: Mapping[str, Any], rule: str) -> str:
    return gained(Estimate.from_dict(found[rule])) if rule in found else ""


def read_result(folder: Path) -> PairStudyResult:
    """The scores in ``folder``. The errors are those of :meth:`StudyFiles.read`."""
    return FILES.read(folder, _from_files)


def _from_files(content: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> PairStudyResult:
    models, summaries = [], []
    for point in content["models"]:
        contexts = [name.split("/")[1] for name in arrays if name.startswith(f"{point['name']}/")]
        scores = SentencePairScores(
            {context: arrays[f"{point['name']}/{context}/nats"] for context in dict.fromkeys(contexts)},
            {context: arrays[f"{point['name']}/{context}/tokens"] for context in dict.fromkeys(contexts)},
            arrays["bytes"],
            tuple(arrays["items"].tolist()),
            tuple(arrays["kinds"].tolist()),
        )
        facts = {key: point.pop(key) for key in ("name", "step", "tokens_seen", "weights", "bos")}
        models.append(ScoredModel(**facts, scores=scores))
        summaries.append(point)
    if not models:
        raise ValueError("it holds no models")
    result = PairStudyResult(content["subject"], content["settings"], tuple(models), tuple(summaries))
    result.text()  # reads every number that somebody asks for, so that what is malformed is known here
    return result
