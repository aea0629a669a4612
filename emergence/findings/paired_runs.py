"""Two runs against each other, question by question: how much better one answers than the other, and how sure that is.

What is compared are two trained models. Whether the difference would come again with other seeds is not asked: that
is what the table of several seeds tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emergence.errors import DataError, UsageError
from emergence.experiment.facts import HEADLINE
from emergence.findings.comparable import NOT_RECORDED, OF_ALL_PHASES, differing_settings, tells_its_pretraining
from emergence.findings.two_by_two import RunScores
from emergence.measures.bootstrap import N_BOOT
from emergence.measures.clustering import ClusterKind
from emergence.measures.measured_coverage import units_of
from emergence.measures.paired import PairedComparison, compare_paired_together
from emergence.plain import plain
from emergence.wording import aligned, counted, did_you_mean, gained

#: Scores that are compared, with the words for them.
SCORES = {"f1_tokens": "token F1", "argument_selection": "argument selection", "em": "exact match"}
#: Probes that stand for a frozen run where no read-out is named.
PROBES = (HEADLINE, "bilinear", "words+bilinear")


@dataclass(frozen=True)
class ReadoutComparison:
    """One score of a read-out of run A against one of run B.

    Attributes:
        readout_a, readout_b: Names of the read-outs.
        score: Name of the score.
        n: Questions that have the score in both.
        mean_a, mean_b: Means over those questions.
        paired: A minus B, with its interval and p-values.
    """

    readout_a: str
    readout_b: str
    score: str
    n: int
    mean_a: float
    mean_b: float
    paired: PairedComparison


@dataclass(frozen=True)
class RunComparison:
    """Two runs on the same test questions.

    Attributes:
        run_a, run_b: Their names.
        n_questions: Questions that both answered.
        n_sentences: Sentences of those questions. n_documents: Their documents; None where older files do not tell.
        cluster: What the intervals resample.
        rows: A comparison for every pair of read-outs and score.
        notes: What a reader of the differences should know.
        names_a, names_b: What a read-out is called in words, where its name does not say it.
    """

    run_a: str
    run_b: str
    n_questions: int
    n_sentences: int
    n_documents: int | None
    cluster: ClusterKind
    rows: tuple[ReadoutComparison, ...]
    notes: tuple[str, ...]
    names_a: Mapping[str, str]
    names_b: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(vars(self))

    def text(self) -> str:
        """A table for the terminal, and the notes."""
        lines = [
            f"A  {self.run_a}",
            f"B  {self.run_b}",
            f"{counted(self.n_questions, 'test question')} ({units_of(self.n_sentences, self.n_documents)})",
            "",
        ]
        table = [["read-out", "score", "A", "B", "A - B", "p"]]
        for row in self.rows:
            one, two = self.names_a.get(row.readout_a, row.readout_a), self.names_b.get(row.readout_b, row.readout_b)
            name = one if one == two else f"{one} - {two}"
            means = [f"{row.mean_a:.3f}", f"{row.mean_b:.3f}"]
            p = f"{row.paired.p_sign_flip:.4f}"
            table.append([name, SCORES[row.score], *means, gained(row.paired.difference), p])
        lines += aligned(table, left=2)
        return "\n".join([*lines, "", *(f"note  {note}" for note in self.notes)])


def compare_runs(
    a: RunScores,
    b: RunScores,
    readouts: Sequence[str] = (),
    *,
    cluster: ClusterKind = "sentence",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> RunComparison:
    """Pair the questions that both runs answered, and compare their scores.

    Args:
        a, b: Finished runs.
        readouts: One name for both runs, or one for A and one for B; empty compares what both have.
        cluster: What is resampled whole; sentences where older files do not tell the document.
        n_boot: Bootstrap resamples.
        seed: Of the bootstrap and the sign flips.

    Raises:
        UsageError: A read-out that a run does not have, or more than two names.
        DataError: No question is in both.
    """
    pairs = _pairs(a, b, readouts)
    in_a, in_b, n_other = _common_questions(a, b)
    sentences = [a.sentences[i] for i in in_a]
    documents = [a.documents[i] for i in in_a] if a.documents else None
    kind: ClusterKind = cluster if documents else "sentence"
    clusters = np.array(documents if kind == "document" else sentences)
    places, asked = [], []
    for name_a, name_b in pairs:
        scores_a, scores_b = a.scores[name_a], b.scores[name_b]
        for score in (score for score in SCORES if score in scores_a and score in scores_b):
            values_a, values_b = scores_a[score][in_a], scores_b[score][in_b]
            both = np.isfinite(values_a) & np.isfinite(values_b)
            if both.any():
                places.append((name_a, name_b, score))
                asked.append((values_a[both], values_b[both], clusters[both]))
    rows = [
        ReadoutComparison(*place, len(of_a), float(of_a.mean()), float(of_b.mean()), paired)
        for place, (of_a, of_b, _), paired in zip(
            places, asked, compare_paired_together(asked, n_boot=n_boot, seed=seed), strict=True
        )
    ]
    n_documents = len(set(documents)) if documents else None
    return RunComparison(
        run_a=a.run.run_id,
        run_b=b.run.run_id,
        n_questions=len(in_a),
        n_sentences=len(set(sentences)),
        n_documents=n_documents,
        cluster=kind,
        rows=tuple(rows),
        notes=tuple(_notes(a, b, len(in_a), n_other, kind, n_tests=len(rows))),
        names_a=_words_of(a),
        names_b=_words_of(b),
    )


def _words_of(run: RunScores) -> dict[str, str]:
    """The headline is another thing in a frozen run than in one with all weights trained."""
    return {HEADLINE: "linear" if run.run.spec.freeze_llm else "finetuned"}


def _pairs(a: RunScores, b: RunScores, readouts: Sequence[str]) -> list[tuple[str, str]]:
    """Read-outs of A and B that are compared; a run with all weights trained has one, which stands against each."""
    if len(readouts) > 2:
        raise UsageError(f"--readout takes one name, or one for each run: got {len(readouts)}")
    if readouts:
        return [(_known_as(a, readouts[0], b), _known_as(b, readouts[-1], a))]
    probes_a, probes_b = ([name for name in PROBES if name in run.scores] for run in (a, b))
    if len(probes_a) == 1 or len(probes_b) == 1:
        return [(name_a, name_b) for name_a in probes_a for name_b in probes_b]
    return [(name, name) for name in probes_a if name in probes_b]


def _known_as(run: RunScores, name: str, other: RunScores) -> str:
    """The read-out's name in the run's files, by that or by the word that the comparison shows for it."""
    names = {name: name for name in run.scores} | {word: key for key, word in _words_of(run).items()}
    if name in names:
        return names[name]
    there = " (the other run has it: name them in the runs' order)" if name in other.scores else ""
    raise UsageError(f"{run.run.run_id} has no read-out {name!r}{there}: {did_you_mean(name, names)}")


def _common_questions(a: RunScores, b: RunScores) -> tuple[list[int], list[int], int]:
    """Rows of A and of B that hold the same questions, in the order of A.

    Last comes the number of ids in both whose sentence, words or question differ. Older rows hold the sentence alone.
    """
    place = {question: row for row, question in enumerate(b.ids)}
    shared = [(row, place[question]) for row, question in enumerate(a.ids) if question in place]
    common = [(one, two) for one, two in shared if a.sentences[one] == b.sentences[two]]
    if a.asked is not None and b.asked is not None:
        common = [(one, two) for one, two in common if a.asked[one] == b.asked[two]]
    if not common:
        why = f" ({counted(len(shared), 'id')} in both, of other words or questions)" if shared else ""
        raise DataError(
            f"{a.run.run_id} and {b.run.run_id} share no test question{why}: compare runs on the same question data"
        )
    return [row for row, _ in common], [row for _, row in common], len(shared) - len(common)


def _notes(a: RunScores, b: RunScores, n_common: int, n_other: int, cluster: ClusterKind, n_tests: int) -> list[str]:
    notes = [
        f"intervals (95%) and p (sign flips) resample {cluster}s and hold for these two trained models; other seeds "
        "may differ by more: `emergence table` pools seeds"
    ]
    if a.run.run_id == b.run.run_id:
        notes.append("A and B are the same run: between equal read-outs there is no difference to see")
    if n_tests > 1:
        notes.append(f"p is of each row alone, not corrected for {n_tests} rows")
    if cluster == "sentence":
        notes.append("sentences of one document are alike: --cluster document is the more careful choice")
    for run in (a, b):
        if left := len(run.ids) - n_common - n_other:
            notes.append(f"{counted(left, 'question')} of {run.run.run_id} not in the other run, left out")
    if n_other:
        notes.append(f"{counted(n_other, 'id')} in both with other words or another question, left out")
    if a.result.fingerprint("questions") != b.result.fingerprint("questions"):
        notes.append("the runs' question data differ (training questions or others): only shared test questions count")
    differing = [f"{name} {x} against {y}" for name, x, y in _differences(a, b) if x != y]
    if a.run.spec.config.name == b.run.spec.config.name:  # two sizes differ in many
        differing += differing_settings(a.run.spec, b.run.spec, _used_by_both(a, b))
    if differing:
        notes.append(f"the runs differ in {', '.join(differing)}")
    return notes


def _used_by_both(a: RunScores, b: RunScores) -> tuple[str, ...]:
    """Settings that both runs went by. A run that was given its trunk has some that no pretraining had."""
    specs = a.run.spec, b.run.spec
    used = {
        "model.": all(spec.model is None for spec in specs),
        "pretrain.": _both_tell_pretraining(a, b),
        "finetune.": all(not spec.freeze_llm for spec in specs),
        "probe.": all(spec.freeze_llm for spec in specs),
    }
    return (*(section for section, by_both in used.items() if by_both), *OF_ALL_PHASES)


def _differences(a: RunScores, b: RunScores) -> list[tuple[str, Any, Any]]:
    one, two = a.run.spec, b.run.spec
    names = [
        *("condition", "model", "revision", "pretrain_data", "layout", "seed"),
        *("finetune_samples", "subset", "snapshot", "adapter"),
    ]
    pairs = [("config", one.config.name, two.config.name), ("recipe", one.config.recipe, two.config.recipe)]
    pairs += [(name, getattr(one, name), getattr(two, name)) for name in names]
    texts = [run.result.fingerprint("text") for run in (a, b)]
    if None not in texts:
        pairs.append(("pretraining text", str(texts[0])[:12], str(texts[1])[:12]))
    of_one_seed = (one.seed, one.pretrain_data) == (two.seed, two.pretrain_data)  # others differ in the id, too
    if of_one_seed and not any(spec.random_baseline or spec.model for spec in (one, two)):
        ids = [run.result.trunk.pretrain_id or NOT_RECORDED for run in (a, b)]
        pairs += [] if _both_tell_pretraining(a, b) else [("pretraining", ids[0], ids[1])]
    return pairs


def _both_tell_pretraining(a: RunScores, b: RunScores) -> bool:
    return all(tells_its_pretraining(run.run.spec, run.result) for run in (a, b))
