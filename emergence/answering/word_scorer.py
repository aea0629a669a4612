"""R_1: what a log-linear model of words and positions scores without any language model.

A probe has to beat this model, or it reads no more than words and positions tell. Conditional probing adds states to
it. A word's start and end scores are sums of weights of its hashed features (:mod:`emergence.answering.word_features`).
Each boundary is a softmax over the words of the sentence, trained on the sum over all golds like finetuning. Training
questions are scored by models that never saw their sentence, because in-sample scores would hide what states add. Few
passes leave scores too timid, and a probe must not be credited with making them bolder. So last, one scale for each
boundary is fitted to the scores of the training questions (docs/methods.md#words-and-positions).
"""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.sparse import csr_array

from emergence.answering.evaluate import gold_spans, quick_scores
from emergence.answering.features import SpanLogits
from emergence.answering.word_features import N_ROWS, Variant, WordFeatures, word_features
from emergence.data.cache import building, find
from emergence.data.qa_encoding import EncodedQA
from emergence.errors import EmergenceError, RunDirectoryError
from emergence.files import (
    content_digest,
    read_sealed,
    seal,
    sha256_file,
    write_atomic,
    write_json_atomic,
)
from emergence.measures.ragged import offsets_of, rows_at
from emergence.training.recording import StopRequested

logger = logging.getLogger(__name__)

#: Raised whenever features or fit change, so that a cache never answers for another model.
VERSION = 2
#: Where scores are kept within the cache.
CACHE_FOLDER = "words"
_ABOUT, _ARRAYS = "scores.json", "scores.npz"
LEARNING_RATE, BATCH_QUESTIONS, MAX_EPOCHS, FOLDS = 0.1, 128, 10, 5
_EPSILON = 1e-10
#: Least and largest scale of the scores. A few cross-fitted questions know nothing and would set every score to 0.
SCALES = (0.1, 10.0)
#: Words scored at once.
_BLOCK_ROWS = 1 << 15
_SPLITS = ("train", "validation", "test")

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WordScores:
    """Scores of words and positions for three splits.

    Attributes:
        train: Logits (N, W) of the training questions, each from a model that never saw its sentence.
        validation, test: Logits from the model of all training questions.
        variant: ``left`` or ``both``.
        epoch: Number of passes over the training questions, chosen on validation.
        facts: ``folds``, ``epochs_tried``, ``validation_f1`` by epoch, ``rows`` of the weights in use, and ``scales``,
            the factors of start and end that the logits hold already.
    """

    train: SpanLogits
    validation: SpanLogits
    test: SpanLogits
    variant: str
    epoch: int
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the words and golds of B questions stand among R words.

    Attributes:
        firsts, lengths: (B,) the first word of each question, and the number of its words.
        gold_starts, gold_ends: (G,) the words at which each gold starts and ends.
        gold_firsts: (B,) the first gold of each question. gold_owner: (G,) the question of each gold.
    """

    firsts: IntArray
    lengths: IntArray
    gold_starts: IntArray
    gold_ends: IntArray
    gold_firsts: IntArray
    gold_owner: IntArray

    @classmethod
    def of(cls, encoded: EncodedQA, index: IntArray) -> _Place:
        """The places of the questions ``index``, one after the other."""
        lengths = encoded.n_words[index]
        firsts = offsets_of(lengths)[:-1]
        golds = gold_spans(encoded).take(index)
        starts, ends = firsts[golds.owner] + golds.starts, firsts[golds.owner] + golds.ends_inclusive
        return cls(firsts, lengths, starts, ends, golds.offsets[:-1], golds.owner)


@dataclass(frozen=True, eq=False)
class Batch:
    """B training questions, R words.

    Attributes:
        touched: (U,) the rows of the weights that occur.
        features: (R, U) which of them each word has.
        place: Where words and golds stand.
    """

    touched: IntArray
    features: csr_array
    place: _Place


def word_scores(
    train: EncodedQA,
    validation: EncodedQA,
    test: EncodedQA,
    *,
    variant: Variant,
    max_answer_words: int,
    seed: int = 0,
    cache_dir: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> WordScores:
    """Fit R_1 on ``train`` and score all three splits. Equal arguments give equal bits.

    Args:
        train: Questions to learn from.
        validation, test: The other questions. Those of ``validation`` choose the epoch.
        variant: ``left`` knows the question, the word, the words before it and the predicate's place. ``both`` knows
            the next word too.
        max_answer_words: Longest span decoded where the epoch is chosen.
        seed: Seed of the folds and of the order of training.
        cache_dir: Where scores are kept for the next call with the same questions; None keeps nothing.
        should_stop: A function that is asked after every epoch.

    Raises:
        StopRequested: ``should_stop`` was true. The same call starts anew.
    """
    splits = {"train": train, "validation": validation, "test": test}
    key = _fingerprint(splits, variant, max_answer_words, seed)
    if cache_dir is not None and (kept := _read(cache_dir / CACHE_FOLDER / key, splits)) is not None:
        return kept
    scores = _fit_and_score(splits, variant, max_answer_words, seed, should_stop)
    if cache_dir is not None:
        try:
            _write(cache_dir / CACHE_FOLDER / key, scores)
        except (EmergenceError, OSError) as error:  # they can be made again
            logger.warning("scores of words and positions are not kept: %s", error)
    return scores


# Fitting ------------------------------------------------------------------------------------------


def _fit_and_score(
    splits: dict[str, EncodedQA], variant: Variant, max_answer_words: int, seed: int, should_stop: Callable[[], bool]
) -> WordScores:
    features, n_rows = _compact({split: word_features(encoded, variant) for split, encoded in splits.items()})
    train = splits["train"]
    fold_of = fold_of_questions(train.clusters, seed)
    batches = _batches(train, features["train"], fold_of, seed)
    fit = _Fit(n_rows, seed, should_stop)
    everything = [batch for fold in batches for batch in fold]
    chosen = fit.choose_epoch(everything, features["validation"], splits["validation"], max_answer_words)
    crossed = _cross_fitted(fit, chosen.epoch, train, features["train"], fold_of, batches)
    scales = fit_scales(crossed, train)
    of_others = {
        s: _logits(splits[s], scales * score_rows(features[s], chosen.weights)) for s in ("validation", "test")
    }
    facts = {
        "folds": len(batches),
        "epochs_tried": len(chosen.validation_f1),
        "validation_f1": chosen.validation_f1,
        "rows": n_rows,
        "scales": scales.tolist(),
    }
    return WordScores(_logits(train, scales * crossed), **of_others, variant=variant, epoch=chosen.epoch, facts=facts)


def _cross_fitted(
    fit: _Fit,
    epochs: int,
    train: EncodedQA,
    features: WordFeatures,
    fold_of: IntArray,
    batches: Sequence[Sequence[Batch]],
) -> FloatArray:
    """(R, 2) scores of the training words, each fold's from a fit to the others.

    A single sentence leaves nothing to learn from, so its questions get zeros, which are no opinion.
    """
    crossed = np.zeros((int(train.word_offsets[-1]), 2))
    for fold in range(len(batches)) if len(batches) > 1 else ():
        others = [batch for k, part in enumerate(batches) if k != fold for batch in part]
        rows = np.repeat(fold_of == fold, train.n_words)
        of_fold = replace(features, columns=features.columns[rows])
        crossed[rows] = score_rows(of_fold, fit.train(others, epochs))
    return crossed


def fit_scales(scores: FloatArray, encoded: EncodedQA) -> FloatArray:
    """The scales (2,) of start and end at which the scores (R, 2) of all words have the highest likelihood.

    They lie within :data:`SCALES`, so that what is likeliest stays so. Where all scores are zero they are 1.
    """
    if not scores.any():
        return np.ones(2)
    place = _Place.of(encoded, np.arange(len(encoded)))

    def objective(scales: FloatArray) -> tuple[float, FloatArray]:
        loss, error = _loss_and_error(scales * scores, place)
        return loss, (error * scores).sum(axis=0) / len(place.firsts)

    optimum = minimize(objective, np.ones(2), jac=True, method="L-BFGS-B", bounds=[SCALES] * 2)
    return np.asarray(optimum.x)


def _compact(features: dict[str, WordFeatures]) -> tuple[dict[str, WordFeatures], int]:
    """The features with their rows numbered anew, and K, the number of rows that training uses.

    Those rows become 0..K-1, the most frequent first, and all others become K. Frequent rows then lie together in the
    processor's cache, which saves most of the time of a pass.
    """
    counts = np.bincount(features["train"].columns.ravel(), minlength=N_ROWS)
    n_rows = int((counts > 0).sum())
    places = np.full(N_ROWS, n_rows, dtype=np.int32)
    places[np.argsort(-counts, kind="stable")[:n_rows]] = np.arange(n_rows, dtype=np.int32)
    return {split: replace(words, columns=places[words.columns]) for split, words in features.items()}, n_rows


def fold_of_questions(clusters: npt.ArrayLike, seed: int) -> IntArray:
    """(N,) the fold of each question. Sentences are dealt out to ``FOLDS`` folds, or to one each if there are fewer."""
    cluster = np.asarray(clusters, dtype=np.int64)
    n = int(cluster.max(initial=-1)) + 1
    order = np.random.default_rng([seed, 0xF01D]).permutation(n)
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % max(1, min(FOLDS, n))
    return fold[cluster]


@dataclass(frozen=True, eq=False)
class _Chosen:
    weights: FloatArray
    epoch: int
    validation_f1: list[float]


class _Fit:
    """Adagrad over batches. It asks after every epoch whether to stop."""

    def __init__(self, n_rows: int, seed: int, should_stop: Callable[[], bool]) -> None:
        self._n_rows, self._seed, self._should_stop = n_rows, seed, should_stop

    def choose_epoch(
        self, batches: Sequence[Batch], features: WordFeatures, validation: EncodedQA, max_answer_words: int
    ) -> _Chosen:
        """The weights of the epoch with the highest validation F1, and on a tie of the earliest."""
        golds, best, f1 = gold_spans(validation), None, list[float]()
        weights, squares = self._zeros()
        for epoch in range(1, MAX_EPOCHS + 1):
            self._pass(batches, weights, squares, epoch)
            score = quick_scores(_logits(validation, score_rows(features, weights)), golds, max_answer_words).f1
            if best is None or score > max(f1):
                best = _Chosen(weights.copy(), epoch, f1)
            f1.append(score)
        assert best is not None
        return best

    def train(self, batches: Sequence[Batch], epochs: int) -> FloatArray:
        weights, squares = self._zeros()
        for epoch in range(1, epochs + 1):
            self._pass(batches, weights, squares, epoch)
        return weights

    def _zeros(self) -> tuple[FloatArray, FloatArray]:
        """Weights and sums of squared gradients. The last row is for features that training never showed."""
        return np.zeros((self._n_rows + 1, 2)), np.zeros((self._n_rows + 1, 2))

    def _pass(self, batches: Sequence[Batch], weights: FloatArray, squares: FloatArray, epoch: int) -> None:
        """One epoch, in place. ``squares`` are Adagrad's sums of squared gradients."""
        for number in np.random.default_rng([self._seed, epoch, 0x3A5]).permutation(len(batches)):
            batch = batches[number]
            _, gradient = loss_and_gradient(batch, weights[batch.touched])
            total = squares[batch.touched] + gradient**2
            squares[batch.touched] = total
            weights[batch.touched] -= LEARNING_RATE * gradient / (np.sqrt(total) + _EPSILON)
        if self._should_stop():
            raise StopRequested("stopped while words and positions were scored: run the same command again")


def loss_and_gradient(batch: Batch, weights: FloatArray) -> tuple[float, FloatArray]:
    """The mean of -log sum_g p_start(g) p_end(g) in nats, and its gradient by ``weights`` (U, 2)."""
    loss, error = _loss_and_error(batch.features @ weights, batch.place)
    return loss, np.asarray(batch.features.T @ error) / len(batch.place.firsts)


def _loss_and_error(logits: FloatArray, batch: _Place) -> tuple[float, FloatArray]:
    """The mean loss of B questions, and B times its derivatives (R, 2) by the logits."""
    shifted = logits - np.repeat(np.maximum.reduceat(logits, batch.firsts, axis=0), batch.lengths, axis=0)
    odds = np.exp(shifted)
    total = np.add.reduceat(odds, batch.firsts, axis=0)  # (B, 2)
    log_total = np.repeat(np.log(total), batch.lengths, axis=0)
    log_p = shifted - log_total  # (R, 2)
    of_golds = log_p[batch.gold_starts, 0] + log_p[batch.gold_ends, 1]  # (G,)
    top = np.maximum.reduceat(of_golds, batch.gold_firsts)  # (B,)
    share = np.exp(of_golds - top[batch.gold_owner])
    mass = np.add.reduceat(share, batch.gold_firsts)
    share /= mass[batch.gold_owner]
    error = np.exp(log_p)
    error[:, 0] -= np.bincount(batch.gold_starts, share, len(error))
    error[:, 1] -= np.bincount(batch.gold_ends, share, len(error))
    return -float((top + np.log(mass)).mean()), error


def score_rows(features: WordFeatures, weights: FloatArray) -> FloatArray:
    """(R, 2) start and end scores of every word."""
    columns = features.columns
    blocks = [
        weights[columns[first : first + _BLOCK_ROWS]].sum(axis=1) for first in range(0, len(columns), _BLOCK_ROWS)
    ]
    return np.concatenate(blocks) if blocks else np.zeros((0, 2))


def _batches(encoded: EncodedQA, features: WordFeatures, fold_of: IntArray, seed: int) -> list[list[Batch]]:
    """Batches by fold. No batch straddles folds, so all fits share them."""
    rng = np.random.default_rng([seed, 0xBA7C])
    folds = []
    for fold in range(int(fold_of.max(initial=0)) + 1):
        order = rng.permutation(np.flatnonzero(fold_of == fold))
        folds.append(
            [
                make_batch(encoded, features, order[first : first + BATCH_QUESTIONS])
                for first in range(0, len(order), BATCH_QUESTIONS)
            ]
        )
    return folds


def make_batch(encoded: EncodedQA, features: WordFeatures, index: IntArray) -> Batch:
    """The questions ``index`` as one batch."""
    place = _Place.of(encoded, index)
    rows, _ = rows_at(features.word_offsets, index)
    columns = features.columns[rows]
    touched, inverse = np.unique(columns, return_inverse=True)
    pointers = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(columns.shape[1])
    entries = (np.ones(columns.size), inverse.ravel().astype(np.int32), pointers)
    return Batch(
        touched=touched.astype(np.int64),
        features=csr_array(entries, shape=(len(rows), len(touched))),
        place=place,
    )


def _logits(encoded: EncodedQA, scores: FloatArray) -> SpanLogits:
    """Scores (R, 2) of all words as padded logits."""
    lengths = encoded.n_words
    mask = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    padded = np.zeros((2, *mask.shape), dtype=np.float32)
    padded[:, mask] = scores.T
    return SpanLogits(padded[0], padded[1], lengths)


# The cache ----------------------------------------------------------------------------------------


def _fingerprint(splits: dict[str, EncodedQA], variant: str, max_answer_words: int, seed: int) -> str:
    """A digest of everything that the scores depend on."""
    settings = [VERSION, variant, max_answer_words, seed, LEARNING_RATE, BATCH_QUESTIONS, MAX_EPOCHS, FOLDS, N_ROWS]
    questions = {
        split: [
            [e.source, e.sentence_id, e.tokens, e.predicate_index, e.question, e.slots, e.is_passive]
            + [[a.start, a.end] for a in e.answers]
            for e in encoded.examples
        ]
        for split, encoded in splits.items()
    }
    return content_digest({"settings": settings, "questions": questions})


def _write(folder: Path, scores: WordScores) -> None:
    """Write a folder of arrays and the sealed JSON that vouches for them."""
    arrays, buffer = {}, io.BytesIO()
    for split in _SPLITS:
        logits: SpanLogits = getattr(scores, split)
        mask = np.arange(logits.start.shape[1]) < logits.lengths[:, None]
        arrays[split] = np.stack([logits.start[mask], logits.end[mask]], axis=1)
    np.savez(buffer, allow_pickle=False, **arrays)
    content = {"key": folder.name, "variant": scores.variant, "epoch": scores.epoch, "facts": scores.facts}
    with building(folder) as temporary:
        write_atomic(temporary / _ARRAYS, buffer.getvalue())
        write_json_atomic(temporary / _ABOUT, seal({**content, "arrays": sha256_file(temporary / _ARRAYS)}))


def _read(folder: Path, splits: dict[str, EncodedQA]) -> WordScores | None:
    """The kept scores; None if there are none or they are damaged, and then removed, so that they are made again."""
    path, arrays = folder / _ABOUT, folder / _ARRAYS
    if not find(folder):
        return None
    try:
        content = read_sealed(path)
        if content["key"] != folder.name:
            raise RunDirectoryError(f"{path}: the scores of other questions")
        if not arrays.is_file() or sha256_file(arrays) != content["arrays"]:
            raise RunDirectoryError(f"{arrays}: missing, or its content does not match its sha256")
        with np.load(arrays, allow_pickle=False) as stored:
            logits = {split: _logits(splits[split], stored[split]) for split in _SPLITS}
        return WordScores(**logits, variant=content["variant"], epoch=content["epoch"], facts=content["facts"])
    except (RunDirectoryError, OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: damaged (%s), scoring words and positions again", path, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
