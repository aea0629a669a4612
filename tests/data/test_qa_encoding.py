"""Every word is read at its own last token, in both layouts; nothing is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest

from emergence.data.qa_encoding import (
    EncodedQA,
    batches_by_length,
    batches_for_scoring,
    encode_qa,
    mark_tokens,
    word_pieces,
)
from emergence.data.records import Answer, QAExample
from emergence.data.tokenizer import TextTokenizer

SENTENCES = [
    ("The", "committee", "did", "n't", "approve", "the", "budget", "-LRB-", "yet", "-RRB-", ",", "said", "Smith", "."),
    ("``", "Rain", "''", "costs", "$", "5", "a", "day", ";", "naïve", "Zoë", "'s", "60", "%", "—", "no", "!"),
    ("Dogs", "bark"),
]
PREDICATES = [4, 3, 1]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    text = " ".join("".join(word_pieces(s)) for s in SENTENCES) + " Who approves something? What costs something?"
    return TextTokenizer.train([text] * 3, 320)


def example(number: int, question: str, spans: list[tuple[int, int]], predicate: int | None = -1) -> QAExample:
    tokens = SENTENCES[number]
    return QAExample(
        id=f"q{number}-{question}",
        source="qasrl",
        split="train",
        document_id="d",
        sentence_id=f"s{number}",
        tokens=tokens,
        predicate_index=PREDICATES[number] if predicate == -1 else predicate,
        question=question,
        slots=None,
        answers=tuple(Answer(" ".join(tokens[a:b]), a, b, "given") for a, b in spans),
    )


EXAMPLES = [
    example(0, "Who didn't approve something?", [(0, 2)]),
    example(1, "What costs something?", [(1, 2), (0, 3)]),
    example(2, "What barks?", [(0, 1)]),
    example(0, "What wasn't approved?", [(5, 7), (6, 7), (5, 10)]),
    example(2, "What happens?", [(0, 2)], predicate=None),
]


def encoded(tokenizer: TextTokenizer, layout: str) -> EncodedQA:
    return encode_qa(EXAMPLES, tokenizer, layout, 512)[0]  # type: ignore[arg-type]


def sequence(data: EncodedQA, i: int) -> list[int]:
    return data.ids[data.id_offsets[i] : data.id_offsets[i + 1]].tolist()


def positions(data: EncodedQA, i: int) -> list[int]:
    return data.word_positions[data.word_offsets[i] : data.word_offsets[i + 1]].tolist()


def test_words_become_natural_running_text() -> None:
    assert "".join(word_pieces(SENTENCES[0])) == " The committee didn't approve the budget (yet), said Smith."
    assert "".join(word_pieces(SENTENCES[1])) == ' "Rain" costs $5 a day; naïve Zoë\'s 60% — no!'
    assert "".join(word_pieces(['"', "Go", '"', "he", "said", '"', "now", '"'])) == ' "Go" he said "now"'
    assert word_pieces([""]) == [" "]


@pytest.mark.parametrize("layout", ["question-first", "echo"])
def test_decoding_each_words_tokens_gives_the_word_back(tokenizer: TextTokenizer, layout: str) -> None:
    data = encoded(tokenizer, layout)
    for i, e in enumerate(EXAMPLES):
        ids, last = sequence(data, i), positions(data, i)
        first = len(ids) - (last[-1] + 1) + int(data.question_ranges[i, 1]) + 1  # the scored copy ends the sequence
        assert last[-1] == len(ids) - 1 and len(last) == len(e.tokens)
        for word, piece in enumerate(word_pieces(e.tokens)):
            start = first if word == 0 else last[word - 1] + 1
            own = ids[start : last[word] + 1]
            assert (own[0] == tokenizer.pred) == (word == e.predicate_index)
            assert tokenizer.decode([t for t in own if t != tokenizer.pred]) == piece


@pytest.mark.parametrize("layout", ["question-first", "echo"])
def test_layouts_and_question_range(tokenizer: TextTokenizer, layout: str) -> None:
    data = encoded(tokenizer, layout)
    for i, e in enumerate(EXAMPLES):
        ids = sequence(data, i)
        q_start, q_end = data.question_ranges[i]
        assert tokenizer.decode(ids[q_start:q_end]) == e.question
        assert ids[q_end] == tokenizer.sep
        copies = [ids[q_end + 1 :]] if layout == "question-first" else [ids[: q_start - 1], ids[q_end + 1 :]]
        assert len(copies) == 1 or (copies[0] == copies[1] and ids[q_start - 1] == tokenizer.sep)
        assert (q_start == 0) == (layout == "question-first")
        for copy in copies:
            assert copy.count(tokenizer.pred) == (e.predicate_index is not None)
            assert tokenizer.decode([t for t in copy if t != tokenizer.pred]) == "".join(word_pieces(e.tokens))


def test_golds_are_inclusive_and_the_first_is_trained_on(tokenizer: TextTokenizer) -> None:
    data = encoded(tokenizer, "question-first")
    assert data.gold_offsets.tolist() == [0, 1, 3, 4, 7, 8]
    assert data.first_golds.tolist() == [[0, 1], [1, 1], [0, 0], [5, 6], [0, 1]]
    assert data.gold_ends[4:7].tolist() == [6, 6, 9]
    assert data.clusters.tolist() == [0, 1, 2, 0, 2]


def test_a_padded_batch_holds_exactly_its_examples(tokenizer: TextTokenizer) -> None:
    data = encoded(tokenizer, "echo")
    order = [3, 0, 2, 4]
    batch = data.padded_batch(order)
    for row, i in enumerate(order):
        n = data.lengths[i]
        assert batch.ids[row, :n].tolist() == sequence(data, i) and (batch.ids[row, n:] == tokenizer.pad).all()
        assert batch.word_positions[row][batch.word_mask[row]].tolist() == positions(data, i)
        assert [batch.question_start[row], batch.question_end[row]] == data.question_ranges[i].tolist()
        golds = zip(batch.gold_starts[row], batch.gold_ends[row] + 1, batch.gold_mask[row], strict=True)
        assert [(a, b) for a, b, real in golds if real] == [(a.start, a.end) for a in EXAMPLES[i].answers]
    assert batch.ids.shape == (4, data.lengths[order].max())


def test_a_subset_is_what_encoding_only_those_gives(tokenizer: TextTokenizer) -> None:
    order = [4, 1, 3]
    got = encoded(tokenizer, "question-first").subset(order)
    want, _ = encode_qa([EXAMPLES[i] for i in order], tokenizer, "question-first", 512)
    for name in ("ids", "id_offsets", "word_positions", "word_offsets", "question_ranges", "gold_starts", "gold_ends"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_array_equal(got.gold_offsets, want.gold_offsets)
    assert got.examples == want.examples


def test_what_does_not_fit_is_dropped_and_counted(tokenizer: TextTokenizer) -> None:
    lengths = encoded(tokenizer, "question-first").lengths
    limit = int(np.sort(lengths)[2])
    wrong = example(2, "What?", [(0, 3)])
    kept, dropped = encode_qa([*EXAMPLES, wrong], tokenizer, "question-first", limit)
    assert dropped == {"too_long": 2, "answer_outside": 1}
    assert len(kept) == 3 and int(kept.lengths.max()) == limit
    nothing, dropped = encode_qa(EXAMPLES, tokenizer, "echo", 3)
    assert len(nothing) == 0 and dropped == {"too_long": 5} and nothing.question_ranges.shape == (0, 2)


def test_every_distinct_text_is_encoded_once(tokenizer: TextTokenizer) -> None:
    class Counting:
        sep, pred, pad = tokenizer.sep, tokenizer.pred, tokenizer.pad
        seen: list[str] = []  # noqa: RUF012

        def encode_batch(self, texts: list[str]) -> list:
            self.seen.extend(texts)
            return tokenizer.encode_batch(texts)

    encode_qa(EXAMPLES * 3, Counting(), "echo", 512)
    assert len(Counting.seen) == len(set(Counting.seen))


def test_training_batches_cover_everything_and_hardly_pad() -> None:
    lengths = np.random.default_rng(0).integers(5, 80, 2000)
    batches = batches_by_length(lengths, 16, seed=1, epoch=0)
    again = batches_by_length(lengths, 16, seed=1, epoch=0)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert sorted(np.concatenate(batches).tolist()) == list(range(2000)) and len(batches) == 125
    other = batches_by_length(lengths, 16, seed=1, epoch=1)
    assert any((a != b).any() for a, b in zip(batches, other, strict=True))
    padded = sum(lengths[b].max() * len(b) for b in batches)
    assert padded < 1.06 * lengths.sum()
    # Batch order is shuffled: length and place in the epoch are unrelated.
    assert abs(np.corrcoef(np.arange(125), [lengths[b].mean() for b in batches])[0, 1]) < 0.3


def test_scoring_batches_respect_the_token_budget() -> None:
    lengths = np.array([3, 50, 7, 7, 200, 9])
    batches = batches_for_scoring(lengths, 60)
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    assert all(len(b) == 1 or lengths[b].max() * len(b) <= 60 for b in batches)
    assert batches[0].tolist() == [4]


def _counted(text: str) -> tuple[TextTokenizer, np.ndarray]:
    tokenizer = TextTokenizer.train([text], 400)
    return tokenizer, np.bincount(tokenizer.encode_batch([text])[0], minlength=tokenizer.vocab_rows)


def test_text_marks_are_tokens_that_running_text_has() -> None:
    tokenizer, counts = _counted('He said "go" .\n\nShe went .\n' * 150)
    for known in (None, counts):
        chosen = mark_tokens(tokenizer, "text", known)
        assert tokenizer.decode([chosen.separator]) == chosen.texts[0] == "\n"
        assert chosen.texts[1] == ' "' and tokenizer.decode([chosen.predicate]).endswith('"')
        assert chosen.unseen == ()
    assert chosen.counts is not None and min(chosen.counts) >= 100
    special = mark_tokens(tokenizer, "special", counts)
    assert (special.separator, special.predicate) == (tokenizer.sep, tokenizer.pred)
    assert special.unseen == ("<|sep|>", "<|pred|>")  # which is why a frozen trunk does not read them


@pytest.mark.parametrize(
    ("text", "separator", "predicate"),
    [
        ("A line (so) .\n\nAnother line .\n\n" * 150, "\n\n", " ("),  # blank lines: a lone newline never occurs
        ("the dog, that ran, saw the cat. " * 150, ".", ","),  # no newline, no quotation mark: the micro-world
        ("no point at all " * 200, "\n", ' "'),  # nothing to choose from: the first, flagged
    ],
)
def test_marks_are_chosen_by_their_count_in_the_text(text: str, separator: str, predicate: str) -> None:
    tokenizer, counts = _counted(text)
    chosen = mark_tokens(tokenizer, "text", counts)
    assert chosen.texts == (separator, predicate) and chosen.separator != chosen.predicate
    assert chosen.counts == (counts[chosen.separator], counts[chosen.predicate])
    assert bool(chosen.unseen) == ("no point" in text)
    assert chosen.to_dict()["separator"] == {"text": separator, "count": int(counts[chosen.separator])}
