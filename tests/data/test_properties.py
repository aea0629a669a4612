"""Properties of spans and parsers over drawn inputs.

``EMERGENCE_HYPOTHESIS=campaign`` draws more than 10^5 examples in all; without it, sixty.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from benchmarks.parsers import PARSERS, check_examples, problem_with
from emergence.data.align import Alignment, SentenceIndex, normalise, split_tokens
from emergence.data.formats.qasrl1 import read_qasrl1
from emergence.data.formats.raw import RawAnswer, RawQuestion, examples_from_raw
from emergence.data.formats.squad import raw_from_rows
from emergence.data.qa_encoding import encode_qa, word_pieces
from emergence.data.text_files import cut_documents, natural_text, open_text_file
from emergence.data.tokenizer import TextTokenizer
from emergence.data.wikitext import detokenise, plain_heading
from emergence.errors import EmergenceError
from emergence.files import content_digest, parse_json, seal, to_json, unseal

CAMPAIGN = os.environ.get("EMERGENCE_HYPOTHESIS") == "campaign"


def drawn(examples: int) -> settings:
    """So many examples in the campaign; derandomised and few otherwise."""
    return settings(
        max_examples=examples if CAMPAIGN else 60,
        deadline=None,
        database=None,
        derandomize=not CAMPAIGN,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


#: Characters that parsers stumble over, beside ordinary ones.
CHARACTERS = st.sampled_from(
    "abcA.,'\"?!-_#=@|<&éß\u0301\u200b\u200d\u00ad\ufeff\u202e\u00a0\u2028\u0130🦄שé0"
) | st.characters(codec="utf-8", exclude_characters="\0 \t\r\n")
WORD = st.text(CHARACTERS, min_size=1, max_size=6)
WORDS = st.lists(WORD, min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TOKENIZER = TextTokenizer.train(["Dogs eat meat. What eats something?"] * 3, 300)


@st.composite
def sentences(draw: Any) -> tuple[list[str], int, int]:
    words = draw(WORDS)
    start = draw(st.integers(0, len(words) - 1))
    return words, start, draw(st.integers(start + 1, len(words)))


@drawn(10_000)
@given(sentences(), st.sampled_from(["NFC", "NFD"]), st.none() | st.integers(0, 7))
def test_an_answer_cut_from_its_sentence_is_found(
    sentence: tuple[list[str], int, int], form: Any, predicate: int | None
) -> None:
    words, start, end = sentence
    answer = unicodedata.normalize(form, " ".join(words[start:end]))
    wanted = [normalise(word) for word in words[start:end]]
    place = SentenceIndex(words).align(answer, predicate)
    if not all(wanted):  # what cannot be seen cannot be told from nothing
        return
    if isinstance(place, str):
        assert predicate is None and place == "ambiguous_span"
        return
    assert isinstance(place, Alignment) and 0 <= place.start < place.end <= len(words)
    found = [word for word in map(normalise, words[place.start : place.end]) if word]
    assert [word.casefold() for word in found] == [word.casefold() for word in wanted]


@drawn(10_000)
@given(sentences(), st.integers(0, 7), st.lists(WORD, min_size=1, max_size=3), st.booleans())
def test_examples_keep_their_promises(
    sentence: tuple[list[str], int, int], predicate: int, question: list[str], is_given: bool
) -> None:
    words, start, end = sentence
    text = " ".join(words[start:end])
    answers = (RawAnswer(text, (start, end) if is_given else None, given=is_given), RawAnswer("nowhere to be found"))
    raw = RawQuestion("x", "s:1", tuple(words), " ".join([*question, "?"]), answers, predicate_index=predicate)
    examples, counts = examples_from_raw([raw, raw], "train")
    counts.check()
    check_examples(examples)
    assert len(examples) + sum(counts.skipped.values()) == 2
    for layout in ("question-first", "echo"):
        encoded, dropped = encode_qa(examples, TOKENIZER, layout, 10_000)
        assert not dropped
        for i in range(len(encoded)):
            positions = encoded.word_positions[encoded.word_offsets[i] : encoded.word_offsets[i + 1]]
            ids = encoded.ids[encoded.id_offsets[i] : encoded.id_offsets[i + 1]]
            begin = int(encoded.question_ranges[i, 1]) + 1
            pieces = word_pieces(examples[i].tokens)
            assert list(positions) == sorted(set(positions)) and positions[-1] == len(ids) - 1
            for w, position in enumerate(positions):
                read = [t for t in ids[begin : position + 1].tolist() if t != TOKENIZER.pred]
                assert TOKENIZER.decode(read) == "".join(pieces[: w + 1])


@drawn(15_000)
@given(st.lists(WORD, min_size=1, max_size=9), st.data())
def test_squad_answers_are_where_their_text_is(words: list[str], data: st.DataObject) -> None:
    context = " ".join(words)
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    text = context[start:end]
    answers = {"text": [text], "answer_start": [start]}
    rows = [{"id": "1", "title": "t", "context": context, "question": "Who?", "answers": answers}]
    examples, counts = examples_from_raw(raw_from_rows(rows), "train")
    counts.check()
    check_examples(examples)
    for example in examples:
        assert example.answers[0].text == text


@drawn(12_000)
@given(WORDS, st.lists(WORDS, max_size=3), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_qasrl_text_round_trip(words: list[str], answers: list[list[str]], newline: str, bom: bool) -> None:
    given_answers = [" ".join(answer) for answer in answers if "###" not in " ".join(answer)]
    slots = ["who", "_", "_", "did", "_", "_", "_", "?", " ### ".join(given_answers)]
    lines = ["W_1\t1", " ".join(words), f"0\t{words[0]}\t1", "\t".join(slots), "", ""]
    assume(words[0].strip())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.qa"
        path.write_bytes(b"\xef\xbb\xbf" * bom + newline.join(lines).encode())
        (raw,) = read_qasrl1(path)
    assert raw.tokens == tuple(words) == split_tokens(" ".join(words))
    assert [a.text.strip() for a in raw.answers if a.text] == [a.strip() for a in given_answers if a.strip()]


@drawn(15_000)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200), st.integers(5, 50))
def test_text_files_lose_nothing_but_space(text: str, piece: int) -> None:
    assume(text.removeprefix("\ufeff").strip())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(text.encode())
        try:
            file = open_text_file(path, "a.txt")
            pieces = [natural_text(lines, False) for _, lines in cut_documents(file, piece)]
        except EmergenceError:
            assert text.startswith(("PAR1", "\x1f"))
            return
    kept = "".join("".join(pieces).split())
    plain = "".join("".join(plain_heading(line) for line in text.removeprefix("\ufeff").split("\n")).split())
    assert [c for c in kept if c != "="] == [c for c in plain if c != "="]


@drawn(30_000)
@given(st.text(max_size=60))
def test_tokens_and_detokenising(text: str) -> None:
    whole = text.encode("utf-8", "replace").decode()
    assert TOKENIZER.decode(TOKENIZER.encode(whole)) == whole
    assert "\n" not in detokenise(whole.replace("\n", " "))
    assert sum(map(str.isalnum, detokenise(whole))) == sum(map(str.isalnum, whole))


@drawn(20_000)
@given(JSON)
def test_json_is_sealed_and_read_back(value: Any) -> None:
    content = {"content": value}
    text = to_json(seal(content))
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert unseal(parse_json(text, "x"), "x") == content and parse_json(to_json(value), "x") == value
    assert content_digest(content) == content_digest(parse_json(to_json(content), "x"))


@drawn(10_000)
@given(st.sampled_from(sorted(set(PARSERS) - {"qa_parquet", "nq_parquet", "text_parquet", "sealed_stats"})), st.data())
def test_parsers_refuse_or_read(name: str, data: st.DataObject) -> None:
    """Arbitrary bytes, JSON, and rows of odd cells: an error of the project in one line, or a sound result."""
    parser = PARSERS[name]
    lines = st.lists(st.lists(WORD, min_size=1, max_size=9).map("\t".join), max_size=5).map("\n".join)
    documents = st.lists(JSON.map(json.dumps), max_size=3).map("\n".join)
    content = data.draw(st.binary(max_size=60) | lines.map(str.encode) | documents.map(str.encode) | _table())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "of" / "its" / "own"  # the sentences of a CSV are looked for in the folders around it
        place.mkdir(parents=True)
        assert problem_with(parser, content, place) is None


def _table() -> st.SearchStrategy[bytes]:
    def written(rows: list[list[str]]) -> bytes:
        buffer = io.StringIO()
        csv.writer(buffer).writerows([["qasrl_id", "verb_idx", "question", "answer_range", "answer"], *rows])
        return buffer.getvalue().encode()

    known = st.sampled_from(["Wiki1k:wikinews:1:0:1", "1", "0:1", "0:1~!~2:3", "Dogs", "-1", "9:1", ""])
    return st.lists(st.lists(known | WORD, min_size=4, max_size=6), max_size=3).map(written)
