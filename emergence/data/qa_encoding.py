"""Questions over sentences as token sequences, and where each word of the sentence is read.

Every answer is a span of words, so a word has ONE scored state. It is that of the word's last token, the first state
that has seen the whole word. All span arithmetic runs over word indices. Words are encoded one by one, as the trunk met
them in pretraining: with a leading space unless they attach to the word before, and with Penn Treebank brackets and
quotes undone. Unique words and unique questions are encoded once.

A causal state has seen only its left context, so the question comes first (docs/methods.md#layouts):

- ``question-first``: question, separator, sentence
- ``echo``: sentence, separator, question, separator, sentence, read at the second copy

A mark stands before the asked predicate in every copy of the sentence (SQuAD asks about none). A frozen trunk's
separator and mark are tokens that its text holds (:func:`mark_tokens`). A token that never was an input has an
embedding row that only weight decay and the output loss have moved. All such rows point one way (cosine above 0.99), so
a frozen trunk could not tell one such mark from the other. A trunk that is trained learns ``<|sep|>`` and ``<|pred|>``
instead, which nothing else in a sentence can be mistaken for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from emergence.data.records import QAExample
from emergence.errors import UsageError
from emergence.measures.ragged import offsets_of, rows_at
from emergence.spec.experiment import Layout

Marks = Literal["text", "special"]
IntArray = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

#: Penn Treebank escapes and what they stand for.
_PTB_SURFACE = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
}
_NO_SPACE_BEFORE = frozenset(
    [",", ".", ";", ":", "?", "!", "%", ")", "]", "}", "''", "'", "...", "”", "’", "-RRB-", "-RSB-", "-RCB-"]
)
_NO_SPACE_AFTER = frozenset(["(", "[", "{", "``", "`", "$", "£", "€", "“", "‘", "-LRB-", "-LSB-", "-LCB-"])
_CLITIC = re.compile(r"(n['’]t|['’](s|re|ve|m|d|ll))", re.IGNORECASE)

#: A mark that the trunk's text holds less often than this is flagged.
FEWEST_OF_A_MARK = 100
#: Marks of a frozen trunk, in order of preference. Separators end a line or a part of a sentence, others open an aside.
SEPARATORS = ("\n", "\n\n", ".", ";", ",")
PREDICATE_MARKS = (' "', '"', " “", "“", " (", "(", " '", "'", ":", ",", ".")
#: The marks where the text's tokens were not counted: the first of each list.
UNCOUNTED_MARKS = (SEPARATORS[0], PREDICATE_MARKS[0])

#: Batches per shuffled pool that is sorted by length. It is large enough to hardly pad, and small enough to mix.
_BATCHES_PER_POOL = 50


class QATokenizer(Protocol):
    """What encoding needs of :class:`emergence.data.tokenizer.TextTokenizer`."""

    @property
    def sep(self) -> int: ...
    @property
    def pred(self) -> int: ...
    @property
    def pad(self) -> int: ...
    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]: ...


@runtime_checkable
class PublishedTokenizer(Protocol):
    """What a :class:`QATokenizer` has beside if it is of somebody else's model.

    It may cut a word by its neighbours, put a token before every sequence, and lack a token for a mark.
    """

    @property
    def bos(self) -> int | None: ...
    def encode_words(self, pieces: Sequence[str]) -> tuple[Any, Any, Any]: ...
    def mark(self, text: str) -> int | None: ...


@dataclass(frozen=True)
class PaddedBatch:
    """B examples, right-padded. A causal trunk needs no padding mask, because nothing real sees the padding.

    Attributes:
        ids: Token ids, (B, T) int64, padded with the tokenizer's pad id.
        word_positions: Position of each word's last token in ``ids``, (B, W) int64, 0 where padded.
        word_mask: Which word slots are words, (B, W) bool.
        question_start: First position of the question, (B,).
        question_end: One past the question's last position, (B,).
        gold_starts: First word of each gold span, (B, G). That of most annotators is in slot 0.
        gold_ends: Last word (inclusive) of each gold span, (B, G).
        gold_mask: Which gold slots are golds, (B, G) bool.
    """

    ids: IntArray
    word_positions: IntArray
    word_mask: npt.NDArray[np.bool_]
    question_start: IntArray
    question_end: IntArray
    gold_starts: IntArray
    gold_ends: IntArray
    gold_mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EncodedQA:
    """N encoded examples as flat arrays with offsets. Example i owns ``flat[offsets[i]:offsets[i + 1]]``.

    Attributes:
        examples: The examples, in order.
        ids: Token ids, int32; ``id_offsets`` (N+1,).
        word_positions: Position within its sequence of each word's last token; ``word_offsets`` (N+1,).
        question_ranges: ``[start, end)`` of the question within its sequence, (N, 2).
        gold_starts, gold_ends: First and last (inclusive) word of each gold; ``gold_offsets`` (N+1,).
        pad_id: The token that fills batches up.
    """

    examples: tuple[QAExample, ...]
    ids: Int32Array
    id_offsets: IntArray
    word_positions: Int32Array
    word_offsets: IntArray
    question_ranges: IntArray
    gold_starts: Int32Array
    gold_ends: Int32Array
    gold_offsets: IntArray
    pad_id: int

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def lengths(self) -> IntArray:
        """Tokens per example, (N,)."""
        return np.diff(self.id_offsets)

    @cached_property
    def n_words(self) -> IntArray:
        """Sentence words per example, (N,)."""
        return np.diff(self.word_offsets)

    @cached_property
    def clusters(self) -> IntArray:
        """Sentence clusters for the bootstrap, (N,): 0, 1, ... in order of first appearance."""
        seen: dict[tuple[str, str], int] = {}
        return np.array([seen.setdefault((e.source, e.sentence_id), len(seen)) for e in self.examples], dtype=np.int64)

    @cached_property
    def documents(self) -> IntArray:
        """The document of each question, (N,), numbered as ``clusters`` are."""
        seen: dict[tuple[str, str], int] = {}
        return np.array([seen.setdefault((e.source, e.document_id), len(seen)) for e in self.examples], dtype=np.int64)

    def resampled(self, cluster: Literal["sentence", "document"]) -> IntArray:
        """(N,) what the bootstrap resamples: the sentence or the document of each question."""
        return self.documents if cluster == "document" else self.clusters

    @cached_property
    def first_golds(self) -> IntArray:
        """The gold that most annotators gave: first and last word (inclusive), (N, 2)."""
        first = self.gold_offsets[:-1]
        return np.stack([self.gold_starts[first], self.gold_ends[first]], axis=1).astype(np.int64)

    def subset(self, indices: npt.ArrayLike) -> EncodedQA:
        """The examples at ``indices``, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        ids, id_offsets = _take(self.ids, self.id_offsets, index)
        positions, word_offsets = _take(self.word_positions, self.word_offsets, index)
        starts, gold_offsets = _take(self.gold_starts, self.gold_offsets, index)
        ends, _ = _take(self.gold_ends, self.gold_offsets, index)
        return EncodedQA(
            examples=tuple(self.examples[i] for i in index),
            ids=ids,
            id_offsets=id_offsets,
            word_positions=positions,
            word_offsets=word_offsets,
            question_ranges=self.question_ranges[index],
            gold_starts=starts,
            gold_ends=ends,
            gold_offsets=gold_offsets,
            pad_id=self.pad_id,
        )

    def joined(self, other: EncodedQA) -> EncodedQA:
        """The examples of both, these first. Both must be encoded alike."""

        def offsets(mine: IntArray, theirs: IntArray) -> IntArray:
            return np.concatenate([mine, theirs[1:] + mine[-1]])

        return EncodedQA(
            examples=self.examples + other.examples,
            ids=np.concatenate([self.ids, other.ids]),
            id_offsets=offsets(self.id_offsets, other.id_offsets),
            word_positions=np.concatenate([self.word_positions, other.word_positions]),
            word_offsets=offsets(self.word_offsets, other.word_offsets),
            question_ranges=np.concatenate([self.question_ranges, other.question_ranges]),
            gold_starts=np.concatenate([self.gold_starts, other.gold_starts]),
            gold_ends=np.concatenate([self.gold_ends, other.gold_ends]),
            gold_offsets=offsets(self.gold_offsets, other.gold_offsets),
            pad_id=self.pad_id,
        )

    def padded_batch(self, indices: npt.ArrayLike) -> PaddedBatch:
        """The examples at ``indices`` as one right-padded batch."""
        index = np.asarray(indices, dtype=np.int64)
        ids, _ = _pad(self.ids, self.id_offsets, index, self.pad_id)
        positions, word_mask = _pad(self.word_positions, self.word_offsets, index, 0)
        starts, gold_mask = _pad(self.gold_starts, self.gold_offsets, index, 0)
        ends, _ = _pad(self.gold_ends, self.gold_offsets, index, 0)
        question = self.question_ranges[index]
        return PaddedBatch(
            ids=ids,
            word_positions=positions,
            word_mask=word_mask,
            question_start=question[:, 0],
            question_end=question[:, 1],
            gold_starts=starts,
            gold_ends=ends,
            gold_mask=gold_mask,
        )


def encode_qa(
    examples: Iterable[QAExample],
    tokenizer: QATokenizer,
    layout: Layout,
    max_tokens: int,
    marks: Marks = "special",
    token_counts: IntArray | None = None,
) -> tuple[EncodedQA, dict[str, int]]:
    """Encode examples in ``layout``.

    Args:
        examples: Questions whose answers are spans of their ``tokens``.
        tokenizer: The trunk's tokenizer.
        layout: See the module's description.
        max_tokens: Longest sequence the trunk takes. Longer examples are dropped, never cut, because a cut could
            remove the answer.
        marks, token_counts: See :func:`mark_tokens`.

    Returns:
        The kept examples in order, and how many were dropped by reason. The reasons are ``too_long``, and
        ``answer_outside`` for a gold span beyond the sentence or no gold at all.
    """
    examples = list(examples)
    encode = cached_encoder(tokenizer)
    chosen = mark_tokens(tokenizer, marks, token_counts)
    sep, mark = chosen.separator, chosen.predicate
    sentences: dict[tuple[tuple[str, ...], int | None], tuple[Int32Array, Int32Array]] = {}
    questions = dict(zip(unique := list(dict.fromkeys(e.question for e in examples)), encode(unique), strict=True))
    for key in dict.fromkeys((e.tokens, e.predicate_index) for e in examples):
        words = _encode_words(key[0], tokenizer, encode)
        sentences[key] = words[::2] if key[1] is None else _marked(*words, key[1], mark)
    before = tokenizer.bos if isinstance(tokenizer, PublishedTokenizer) else None
    kept: list[QAExample] = []
    dropped: dict[str, int] = {}
    rows: list[tuple[Int32Array, Int32Array, int, int]] = []
    for example in examples:
        sentence, last = sentences[example.tokens, example.predicate_index]
        row = _assemble(questions[example.question], sentence, last, layout, sep, before)
        reason = _refuse(example, len(row[0]), max_tokens)
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            kept.append(example)
            rows.append(row)
    return _flatten(kept, rows, tokenizer.pad), dropped


@dataclass(frozen=True)
class MarkTokens:
    """What separates question and sentence, and what marks the predicate.

    Attributes:
        separator, predicate: Token ids.
        texts: The texts of the two.
        counts: How often the trunk's text holds the two; None where that is not known.
    """

    separator: int
    predicate: int
    texts: tuple[str, str]
    counts: tuple[int, int] | None

    @property
    def unseen(self) -> tuple[str, ...]:
        """Texts of the marks that the trunk has hardly met, so that its states hardly tell them apart."""
        return tuple(t for t, n in zip(self.texts, self.counts or (), strict=False) if n < FEWEST_OF_A_MARK)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        counts = self.counts or (None, None)
        names = ("separator", "predicate")
        return {name: {"text": t, "count": n} for name, t, n in zip(names, self.texts, counts, strict=True)}


def mark_tokens(tokenizer: QATokenizer, marks: Marks, token_counts: IntArray | None = None) -> MarkTokens:
    """Choose the separator and the predicate's mark.

    With ``marks`` of ``text``, each is the first of :data:`SEPARATORS` or :data:`PREDICATE_MARKS` that the text holds
    at least :data:`FEWEST_OF_A_MARK` times, else the most frequent of them. The two differ. A candidate of several
    tokens is represented by its last one, which every byte-level vocabulary has. Example: the separator of a long text
    without line breaks is a full stop.

    Args:
        marks: ``special`` for the tokenizer's own two tokens, ``text`` for tokens of the text.
        token_counts: (V,) how often the trunk's text holds each token. If None, the marks are a newline and a
            quotation mark, as in versions that did not count; a published tokenizer without a token for one of them
            gets the next of its list.

    Raises:
        UsageError: A published tokenizer has no two tokens for marks.
    """
    if marks == "special":
        counts = None if token_counts is None else (int(token_counts[tokenizer.sep]), int(token_counts[tokenizer.pred]))
        return MarkTokens(tokenizer.sep, tokenizer.pred, ("<|sep|>", "<|pred|>"), counts)
    ids = _mark_ids(tokenizer)
    if token_counts is None:
        separator, predicate = _first_that_differ(ids)
        return MarkTokens(ids[separator], ids[predicate], (separator, predicate), None)
    count = {text: int(token_counts[token]) for text, token in ids.items()}
    separator = _first_frequent([text for text in SEPARATORS if text in ids], count)
    others = [text for text in PREDICATE_MARKS if text in ids and ids[text] != ids[separator]]
    predicate = _first_frequent(others, count)
    return MarkTokens(ids[separator], ids[predicate], (separator, predicate), (count[separator], count[predicate]))


def _mark_ids(tokenizer: QATokenizer) -> dict[str, int]:
    """The token for each candidate. A published tokenizer may have none for some."""
    candidates = (*SEPARATORS, *PREDICATE_MARKS)
    if isinstance(tokenizer, PublishedTokenizer):
        return {text: token for text in candidates if (token := tokenizer.mark(text)) is not None}
    return {text: int(tokenizer.encode_batch([text])[0][-1]) for text in candidates}


def _first_that_differ(ids: Mapping[str, int]) -> tuple[str, str]:
    """The first separator and the first predicate mark that have tokens of their own.

    Raises:
        UsageError: There are no two.
    """
    for separator in SEPARATORS:
        for predicate in PREDICATE_MARKS if separator in ids else ():
            if predicate in ids and ids[predicate] != ids[separator]:
                return separator, predicate
    raise UsageError("this tokenizer has no two tokens that can separate question and sentence and mark the predicate")


def _first_frequent(texts: Sequence[str], count: Mapping[str, int]) -> str:
    """The first that is frequent enough, else the most frequent, the earlier on a tie."""
    enough = [text for text in texts if count[text] >= FEWEST_OF_A_MARK]
    return enough[0] if enough else max(texts, key=lambda text: count[text])


def word_pieces(tokens: Sequence[str]) -> list[str]:
    """Each word as it stands in running text, leading space included. Joined, they are the sentence.

    >>> "".join(word_pieces(["He", "did", "n't", "-LRB-", "yet", "-RRB-", "."]))
    " He didn't (yet)."

    One word is one piece, even if it attaches to its neighbour.
    """
    pieces, glue, in_quotes = [], False, False
    for word in tokens:
        opens = closes = False
        if word == '"':  # plain quotes open and close in turn, while the Treebank's `` and '' say which they do
            opens, closes = not in_quotes, in_quotes
            in_quotes = not in_quotes
        attached = glue or closes or word in _NO_SPACE_BEFORE or _CLITIC.fullmatch(word) is not None
        surface = _PTB_SURFACE.get(word, word)
        pieces.append((surface if attached else " " + surface) or " ")
        glue = opens or word in _NO_SPACE_AFTER
    return pieces


def batches_by_length(lengths: npt.ArrayLike, batch_size: int, *, seed: int, epoch: int) -> list[IntArray]:
    """Shuffled training batches of examples of similar length: ceil(N / batch_size) arrays of indices.

    All examples are shuffled. Each pool of ``_BATCHES_PER_POOL`` batches is then sorted by length, and the batches are
    shuffled again.
    Equal arguments give equal batches.
    """
    size = np.asarray(lengths)
    rng = np.random.default_rng([seed, epoch, 0x51A])
    order = rng.permutation(len(size))
    pool = batch_size * _BATCHES_PER_POOL
    for first in range(0, len(order), pool):
        part = order[first : first + pool]
        order[first : first + pool] = part[np.argsort(size[part], kind="stable")]
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def batches_for_scoring(lengths: npt.ArrayLike, max_tokens: int, max_examples: int = 512) -> list[IntArray]:
    """All examples by length, longest first, in batches of at most ``max_tokens`` padded tokens (or one example)."""
    size = np.asarray(lengths)
    order = np.argsort(-size, kind="stable")
    batches, first = [], 0
    while first < len(order):
        count = max(1, min(max_examples, max_tokens // max(1, int(size[order[first]]))))
        batches.append(order[first : first + count])
        first += count
    return batches


def _refuse(example: QAExample, n_tokens: int, max_tokens: int) -> str | None:
    if n_tokens > max_tokens:
        return "too_long"
    if any(not 0 <= a.start < a.end <= len(example.tokens) for a in example.answers) or not example.answers:
        return "answer_outside"
    return None


def cached_encoder(tokenizer: QATokenizer) -> Callable[[Sequence[str]], list[Int32Array]]:
    """Encode texts, each distinct one once."""
    known: dict[str, Int32Array] = {}

    def encode(texts: Sequence[str]) -> list[Int32Array]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, (np.asarray(x, dtype=np.int32) for x in tokenizer.encode_batch(new)), strict=True))
        return [known[text] for text in texts]

    return encode


def encode_words(tokenizer: QATokenizer) -> Callable[[tuple[str, ...]], tuple[Int32Array, Int32Array]]:
    """A function from a sentence's words to its token ids (T,) and the place (W,) of each word's last token."""
    encode = cached_encoder(tokenizer)

    def of_sentence(tokens: tuple[str, ...]) -> tuple[Int32Array, Int32Array]:
        ids, _, last = _encode_words(tokens, tokenizer, encode)
        return ids, last

    return of_sentence


def _encode_words(
    tokens: tuple[str, ...], tokenizer: QATokenizer, encode: Callable[[Sequence[str]], list[Int32Array]]
) -> tuple[Int32Array, Int32Array, Int32Array]:
    """Token ids of the sentence, and the places of each word's first and last token."""
    pieces = word_pieces(tokens)
    if isinstance(tokenizer, PublishedTokenizer):
        return tokenizer.encode_words(pieces)
    words = encode(pieces)
    ends = np.cumsum([len(word) for word in words], dtype=np.int32)
    return np.concatenate(words), ends - np.array([len(word) for word in words], dtype=np.int32), ends - np.int32(1)


def _marked(
    ids: Int32Array, first: Int32Array, last: Int32Array, predicate: int, mark: int
) -> tuple[Int32Array, Int32Array]:
    """Token ids with the mark before the predicate, and the place of each word's last token."""
    at = first[predicate]
    return np.insert(ids, at, mark), np.where(last >= at, last + np.int32(1), last)


def _assemble(
    question: Int32Array,
    sentence: Int32Array,
    last: Int32Array,
    layout: Layout,
    sep_id: int,
    bos_id: int | None,
) -> tuple[Int32Array, Int32Array, int, int]:
    """Ids, last positions of the scored words, and the question's range."""
    sep = np.array([sep_id], dtype=np.int32)
    before = [] if bos_id is None else [np.array([bos_id], dtype=np.int32)]
    before += [sentence, sep] if layout == "echo" else []
    q_start = sum(len(part) for part in before)
    q_end = q_start + len(question)
    return np.concatenate([*before, question, sep, sentence]), last + np.int32(q_end + 1), q_start, q_end


def _flatten(kept: list[QAExample], rows: list[tuple[Int32Array, Int32Array, int, int]], pad_id: int) -> EncodedQA:
    ids, id_offsets = _join([row[0] for row in rows])
    positions, word_offsets = _join([row[1] for row in rows])
    golds = [np.array(list(dict.fromkeys(a.span for a in e.answers)), dtype=np.int32) for e in kept]
    starts, gold_offsets = _join([g[:, 0] for g in golds])
    ends, _ = _join([g[:, 1] for g in golds])
    return EncodedQA(
        examples=tuple(kept),
        ids=ids,
        id_offsets=id_offsets,
        word_positions=positions,
        word_offsets=word_offsets,
        question_ranges=np.array([row[2:] for row in rows], dtype=np.int64).reshape(-1, 2),
        gold_starts=starts,
        gold_ends=ends,
        gold_offsets=gold_offsets,
        pad_id=pad_id,
    )


def _join(parts: Sequence[Int32Array]) -> tuple[Int32Array, IntArray]:
    """Concatenate, with offsets (len(parts) + 1,)."""
    flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    return flat, offsets_of([len(part) for part in parts])


def _take(flat: Int32Array, offsets: IntArray, index: IntArray) -> tuple[Int32Array, IntArray]:
    """The ragged rows at ``index``, concatenated, with their offsets."""
    where, taken = rows_at(offsets, index)
    return flat[where], taken


def _pad(flat: Int32Array, offsets: IntArray, index: IntArray, fill: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """The ragged rows at ``index`` as a padded matrix, (B, longest) int64, and its mask."""
    counts = np.diff(offsets)[index]
    mask = np.arange(int(counts.max(initial=0))) < counts[:, None]
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask], _ = _take(flat, offsets, index)
    return padded, mask
