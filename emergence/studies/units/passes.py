"""Passes of one trunk over the questions and sentences of a study of units: reading, attributing, cutting.

Axes: Q questions, B batch, T tokens, C columns of a block's output layer, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.answering.evaluate import gold_log_probs, gold_spans
from emergence.answering.features import (
    TOKENS_PER_BATCH,
    Readout,
    SpanLogits,
    batches_of,
    empty_logits,
    question_states,
    store_logits,
    word_states,
)
from emergence.answering.minimal_pairs import score_minimal_pairs
from emergence.data.qa_encoding import EncodedQA, PaddedBatch, batches_for_scoring
from emergence.measures.span_scores import span_f1
from emergence.measures.spans import decode_joint
from emergence.model import span_cross_entropy
from emergence.model.unit_hooks import Ablation, Attribution, Units, reading
from emergence.studies.units.inputs import Asked, Loaded, Work

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Classes of positions, over each of which a unit has its own mean.
CLASSES = ("question and marks", "sentence before the predicate", "sentence from the predicate on", "sentence alone")
_ALONE = 3


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded sequences: ids (B, T) on the device, the class (B, T) of each position, and which are no padding."""

    index: IntArray
    ids: Tensor
    classes: Tensor
    inside: Tensor
    questions: PaddedBatch | None = None


def question_batches(encoded: EncodedQA, device: torch.device) -> list[Batch]:
    """The questions in batches of similar length, with the classes of their positions."""
    batches = []
    for index in batches_of(encoded, device):
        batch = encoded.padded_batch(index)
        column = np.arange(batch.ids.shape[1])
        begin = encoded.question_ranges[index, 1] + 1  # after the separator
        asked = [encoded.examples[i].predicate_index for i in index]
        places = [
            int(batch.word_positions[row, word]) if word is not None else batch.ids.shape[1]
            for row, word in enumerate(asked)
        ]
        after = column >= np.array(places)[:, None]
        classes = np.where(column < begin[:, None], 0, np.where(after, 2, 1))
        inside = column < encoded.lengths[index][:, None]
        batches.append(_batch(index, batch.ids, classes, inside, device, batch))
    return batches


def sentence_batches(work: Work, which: IntArray) -> list[Batch]:
    """Some of the sentences alone, in batches of similar length."""
    size = TOKENS_PER_BATCH.get(work.device.type, TOKENS_PER_BATCH["cpu"])
    batches = []
    for rows in batches_for_scoring(work.sentences.lengths[which], size):
        ids, inside = work.sentences.padded(which[rows])
        batches.append(_batch(which[rows], ids, np.full_like(ids, _ALONE), inside, work.device))
    return batches


def _batch(
    index: IntArray,
    ids: IntArray,
    classes: IntArray,
    inside: npt.NDArray[np.bool_],
    device: torch.device,
    questions: PaddedBatch | None = None,
) -> Batch:
    on = [torch.from_numpy(each).to(device) for each in (ids, classes, inside)]
    return Batch(index, on[0], on[1], on[2], questions)


@dataclass(frozen=True, eq=False)
class UnitReadings:
    """What one kind of units does.

    Attributes:
        units: The units.
        means: For each block (classes, C), over half A.
        sizes: (U,) mean absolute activation, of a head the mean norm, over the questions of half A.
        at_words: (n, U) activations at the argument words of the sentences alone, of a head the norm.
        attributions: (Q, U) of every question of half A, how much of the log-probability of its golds is lost to first
            order if the unit gave its means: gradient x (activation - mean), summed over positions and columns.
        halfway: (Q, U) the same with the gradient where all units of the kind are half way to their means. It tells
            better which units matter together, and the plain one which matter alone.
    """

    units: Units
    means: tuple[Tensor, ...]
    sizes: FloatArray
    at_words: npt.NDArray[np.float32]
    attributions: FloatArray
    halfway: FloatArray


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a trunk does on half B: token F1 and log-probability of the golds (Q,) by the unchanged probe, nats per
    token of sentences, and which minimal pairs (P,) are right (None without pairs, or where nobody asked)."""

    f1: FloatArray
    log_p: FloatArray
    loss: float
    pairs: FloatArray | None


@dataclass(eq=False)
class Bench:
    """One trunk with a probe that was fitted on it, ready to be run with units cut.

    Attributes:
        work: The data. loaded: The trunk. readout: The probe of its last level.
    """

    work: Work
    loaded: Loaded
    readout: Readout
    _known: dict[tuple[object, ...], Outcome] = field(default_factory=dict, init=False)

    @cached_property
    def _by_role(self) -> list[Asked]:
        b = self.work.b
        rows = [np.flatnonzero(b.labels == i) for i in range(len(self.work.roles))]
        return [Asked(b.encoded.subset(each), b.labels[each], b.max_answer_words) for each in rows]

    @cached_property
    def _batches(self) -> dict[int | None, list[Batch]]:
        asked: dict[int | None, Asked] = {None: self.work.b, **dict(enumerate(self._by_role))}
        return {role: question_batches(each.encoded, self.work.device) for role, each in asked.items()}

    @cached_property
    def _pair_batches(self) -> list[Batch]:
        return question_batches(self.work.pairs, self.work.device) if self.work.pairs is not None else []

    @cached_property
    def _sentences(self) -> list[Batch]:
        return sentence_batches(self.work, self.work.loss_sentences)

    def outcome(self, ablation: Ablation | None = None, *, beside: bool = False, role: int | None = None) -> Outcome:
        """What the trunk does with these units cut. The same units are run once.

        Args:
            beside: Whether the loss and the minimal pairs are wanted, too.
            role: Whose questions alone are wanted, which are fewer; None for all.
        """
        what: tuple[object, ...] = ()
        if ablation is not None and len(ablation.which):
            what = ablation.units.kind, ablation.values is None, *sorted(ablation.which.tolist())
        else:
            ablation = None
        for known in ((*what, True, role), (*what, beside, role)):
            if known in self._known:
                return self._known[known]
        found = self._known[(*what, beside, role)] = self._run(ablation, beside, role)
        return found

    @torch.no_grad()
    def _run(self, ablation: Ablation | None, beside: bool, role: int | None) -> Outcome:
        work, asked = self.work, self.work.b if role is None else self._by_role[role]
        with ExitStack() as cut:
            if ablation is not None:
                cut.enter_context(ablation.applied())
            logits = self._logits(self._batches[role], asked.encoded, ablation)
            pairs, loss = None, float("nan")
            if beside:
                loss = self._loss(ablation)
                if work.pairs is not None:
                    members = self._logits(self._pair_batches, work.pairs, ablation)
                    pairs = score_minimal_pairs(members, work.pairs, work.b.max_answer_words).both_right
        f1, log_p = _scored(logits, asked)
        return Outcome(f1, log_p, loss, pairs)

    def _logits(self, batches: Sequence[Batch], encoded: EncodedQA, ablation: Ablation | None) -> SpanLogits:
        kept = empty_logits(encoded)
        for batch in batches:
            assert batch.questions is not None
            if ablation is not None:
                ablation.classes = batch.classes
            states = self.loaded.model.hidden_states(batch.ids)[-1].float()
            logits = self.readout(question_states(states, batch.questions), word_states(states, batch.questions))
            store_logits(kept, batch.index, batch.questions, *logits)
        return kept

    def _loss(self, ablation: Ablation | None) -> float:
        total, n = 0.0, 0
        for batch in self._sentences:
            if ablation is not None:
                ablation.classes = batch.classes
            nats = self.loaded.losses(batch.ids)  # (B, T - 1)
            inside = batch.inside[:, 1:]
            total, n = total + float(nats[inside].double().sum()), n + int(inside.sum())
        return total / n

    # Reading -------------------------------------------------------------------------------------

    def read(self, kinds: Sequence[Units]) -> list[UnitReadings]:
        """What every kind of units does on half A, and at all argument words."""
        work = self.work
        batches = question_batches(work.a.encoded, work.device)
        in_a = sentence_batches(work, np.flatnonzero(work.words.sentence_in_a))
        means, sizes = zip(*(self._means(units, batches, in_a) for units in kinds), strict=True)
        words = self._at_words(kinds)
        found = (
            [self._attributions(units, values, way, batches) for units, values in zip(kinds, means, strict=True)]
            for way in (0.0, 0.5)
        )
        return [UnitReadings(*each) for each in zip(kinds, means, sizes, words, *found, strict=True)]

    @torch.no_grad()
    def _means(
        self, units: Units, questions: Sequence[Batch], alone: Sequence[Batch]
    ) -> tuple[tuple[Tensor, ...], FloatArray]:
        sums: dict[int, Tensor] = {}
        sizes = np.zeros(len(units))
        counts = torch.zeros(len(CLASSES), dtype=torch.float64)
        now: Batch

        def add(block: int, activations: Tensor) -> None:
            kept, of_class = activations[now.inside].double().cpu(), now.classes[now.inside].cpu()
            if block not in sums:
                sums[block] = torch.zeros(len(CLASSES), kept.shape[-1], dtype=torch.float64)
            sums[block].index_add_(0, of_class, kept)
            if now.questions is not None:
                mine = slice(units.first[block], units.first[block + 1])
                sizes[mine] += units.by_unit(kept).norm(dim=-1).sum(0).numpy()

        with reading(units.modules, add):
            for now in (*questions, *alone):
                counts += torch.bincount(now.classes[now.inside].cpu(), minlength=len(CLASSES))
                self.loaded.model.hidden_states(now.ids)
        places = counts.clamp_min(1)[:, None]
        n = float(counts[:_ALONE].sum())
        device = self.work.device
        return tuple((sums[b] / places).float().to(device) for b in range(len(units.modules))), sizes / n

    @torch.no_grad()
    def _at_words(self, kinds: Sequence[Units]) -> list[npt.NDArray[np.float32]]:
        sentences = self.work.sentences
        owners, places = sentences.predicate_sentences, sentences.predicate_positions
        found = [np.zeros((len(owners), len(units)), dtype=np.float32) for units in kinds]
        row_of = np.full(len(sentences), -1)
        rows = columns = torch.zeros(0, dtype=torch.long)
        mine = np.zeros(0, dtype=np.int64)

        def keep_of(k: int, units: Units, block: int, activations: Tensor) -> None:
            at = units.by_unit(activations[rows, columns].float())  # (words, units, columns)
            values = at[..., 0] if units.kind == "mlp" else at.norm(dim=-1)
            found[k][mine, units.first[block] : units.first[block + 1]] = values.cpu().numpy()

        with ExitStack() as hooks:
            for k, units in enumerate(kinds):
                hooks.enter_context(reading(units.modules, partial(keep_of, k, units)))
            for batch in sentence_batches(self.work, np.arange(len(sentences))):
                row_of[:] = -1
                row_of[batch.index] = np.arange(len(batch.index))
                mine = np.flatnonzero(row_of[owners] >= 0)
                rows = torch.from_numpy(row_of[owners[mine]]).to(self.work.device)
                columns = torch.from_numpy(places[mine]).to(self.work.device)
                self.loaded.model.hidden_states(batch.ids)
        return found

    def _attributions(self, units: Units, values: Sequence[Tensor], way: float, batches: Sequence[Batch]) -> FloatArray:
        found = np.zeros((len(self.work.a.encoded), len(units)))
        attribution = Attribution(units, values, way)
        for batch in batches:
            attribution.classes = batch.classes
            with attribution.applied(), torch.enable_grad():
                states = self.loaded.model.hidden_states(batch.ids)[-1].float()
                # The loss is a mean, and the gradients wanted are those of each question's log-probability.
                (-len(batch.index) * self._gold_loss(states, batch)).backward()
            for block, lost in enumerate(attribution.lost()):
                mine = slice(units.first[block], units.first[block + 1])
                inside = (lost * batch.inside[..., None]).sum(1)  # (B, units)
                found[batch.index, mine] = inside.double().cpu().numpy()
        return found

    def _gold_loss(self, states: Tensor, batch: Batch) -> Tensor:
        """Mean over the batch's questions of minus the log-probability of their golds."""
        questions = batch.questions
        assert questions is not None
        start, end = self.readout(question_states(states, questions), word_states(states, questions))
        facts = (questions.word_mask, questions.gold_starts, questions.gold_ends, questions.gold_mask)
        words, starts, ends, golds = (torch.from_numpy(fact).to(states.device) for fact in facts)
        return span_cross_entropy(start, end, words, starts, ends, golds, "marginal")


def _scored(logits: SpanLogits, asked: Asked) -> tuple[FloatArray, FloatArray]:
    """Token F1 and log-probability of the golds, (Q,) each."""
    golds = gold_spans(asked.encoded)
    decoded = decode_joint(logits.start, logits.end, logits.lengths, asked.max_answer_words)
    return span_f1(decoded, golds), gold_log_probs(logits, golds, "marginal")


def cut(read: UnitReadings, which: IntArray, kind: str = "mean") -> Ablation:
    """An ablation of some units: ``mean`` over positions of the same class, or ``zero``."""
    return Ablation(read.units, which, read.means if kind == "mean" else None)
