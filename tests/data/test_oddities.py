"""Oddities of text in every format: read with the spans still on their words, or refused with file and line."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parsers import check_examples
from benchmarks.samples import parquet
from emergence.data.formats import parquet as parquet_files
from emergence.data.formats import textfile
from emergence.data.formats.qasrl1 import read_qasrl1
from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import recognise
from emergence.data.formats.squad import read_squad
from emergence.data.formats.textfile import json_value, text_lines
from emergence.data.nq import load_nq_path
from emergence.data.qa_encoding import encode_qa, word_pieces
from emergence.data.qa_load import load_qa_path
from emergence.data.records import QAExample
from emergence.data.text import load_text_path
from emergence.data.text_files import cut_documents, natural_text, open_text_file
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import DataError

NFC, NFD = "naïve café", unicodedata.normalize("NFD", "naïve café")
#: Name, the words of a sentence, and the answer, which is its words 1 and 2.
SENTENCES = {
    "decomposed": (["They", *NFD.split(), "left", "."], NFD),
    "mixed forms": (["They", *NFD.split(), "left", "."], NFC),
    "zero width": (["They", "na\u200bïve", "café\u200d", "left", "."], "naïve café"),
    "soft hyphen": (["They", "nai\u00adve", "café", "left", "."], "naive café"),
    "right to left": (["They", "\u202eevian", "שלום", "left", "."], "\u202eevian שלום"),
    "no-break space": (["They", "1\u00a0000", "euros", "left", "."], "1\u00a0000 euros"),
    "line separator": (["They", "a\u2028b", "c", "left", "."], "a\u2028b c"),
    "emoji": (["They", "👩\u200d🚀", "🇫🇷", "left", "."], "👩\u200d🚀 🇫🇷"),
}
Writer = Callable[[Path, list[str], str], Path]


def _qasrl(path: Path, words: list[str], answer: str) -> Path:
    slots = "who\t_\t_\tleft\t_\t_\t_\t?"
    text = f"W_1\t1\n{' '.join(words)}\n3\tleft\t1\n{slots}\t{answer}\n\n"
    (path / "a.qa").write_bytes(text.encode())
    return path / "a.qa"


def _bank(path: Path, words: list[str], answer: str) -> Path:
    slots = dict.fromkeys(("aux", "subj", "obj", "prep", "obj2"), "_") | {"wh": "who", "verb": "past"}
    judged = [{"sourceId": "w", "isValid": True, "spans": [[1, 3]]}]
    label = {"questionString": "Who left?", "answerJudgments": judged, "questionSlots": slots}
    verb = {"verbIndex": 3, "verbInflectedForms": {"past": "left"}, "questionLabels": {"q": label}}
    row = {"sentenceId": "a:1", "sentenceTokens": words, "verbEntries": {"3": verb}}
    (path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path / "a.jsonl"


def _gold(path: Path, words: list[str], answer: str) -> Path:
    (path / "sentences.csv").write_text(f"qasrl_id,tokens\na:1,{' '.join(words)}\n", encoding="utf-8")
    rows = f"qasrl_id,verb_idx,question,answer_range,answer\na:1,3,Who left?,1:3,{' '.join(words[1:3])}\n"
    (path / "a.csv").write_text(rows, encoding="utf-8")
    return path / "a.csv"


def _squad(path: Path, words: list[str], answer: str) -> Path:
    context = " ".join(words)
    start = len(words[0]) + 1
    given = {"text": context[start : context.index(" left")], "answer_start": start}
    question = {"id": "1", "question": "Who left?", "answers": [given]}
    article = {"title": "t", "paragraphs": [{"context": context, "qas": [question]}]}
    (path / "a.json").write_text(json.dumps({"version": "1", "data": [article]}), encoding="utf-8")
    return path / "a.json"


def _parquet(path: Path, words: list[str], answer: str) -> Path:
    slots = ["who", "_", "_", "left", "_", "_", "_", "?"]
    row = {"sentence": " ".join(words), "sent_id": "W_1", "predicate_idx": 3, "predicate": "left"}
    (path / "a.parquet").write_bytes(parquet([row | {"question": slots, "answers": [answer]}]))
    return path / "a.parquet"


WRITERS: dict[str, Writer] = {"qasrl1": _qasrl, "bank": _bank, "gold": _gold, "squad": _squad, "parquet": _parquet}


def read(path: Path) -> list[QAExample]:
    entry = recognise(path)
    assert entry is not None
    examples = examples_from_raw(entry.read(path), "train")[0]
    check_examples(examples)
    return examples


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["They left a naïve café. Who left? Dogs eat meat."] * 4, 320)


@pytest.mark.parametrize("odd", SENTENCES)
@pytest.mark.parametrize("form", WRITERS)
def test_spans_stay_on_their_words(form: str, odd: str, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    words, answer = SENTENCES[odd]
    (example,) = read(WRITERS[form](tmp_path, words, answer))
    (gold,) = example.answers
    assert example.tokens[gold.start : gold.end] == tuple(words[1:3]) or form == "squad"
    encoded, dropped = encode_qa([example], tokenizer, "question-first", 2000)
    assert not dropped and len(encoded.word_positions) == len(example.tokens)
    # The state that a word is read at is that of its last token: up to it, the sentence reads as up to the word.
    start = int(encoded.question_ranges[0, 1]) + 1
    pieces = word_pieces(example.tokens)
    for word in (gold.start, gold.end - 1):
        ids = [i for i in encoded.ids[start : encoded.word_positions[word] + 1].tolist() if i != tokenizer.pred]
        assert tokenizer.decode(ids) == "".join(pieces[: word + 1])


def test_an_accent_stays_on_its_letter_in_squad(tmp_path: Path) -> None:
    (example,) = read(_squad(tmp_path, ["They", *NFD.split(), "left", "."], NFD))
    assert example.tokens == ("They", *NFD.split(), "left", ".")


#: How a whole file can be odd: its bytes, and what the refusal says (None: it reads as the plain file does).
FILES: dict[str, tuple[Callable[[bytes], bytes], str | None]] = {
    "bom": (lambda b: b"\xef\xbb\xbf" + b, None),
    "crlf": (lambda b: b.replace(b"\n", b"\r\n"), None),
    "gzip": (lambda b: gzip.compress(b), None),
    "no last newline": (lambda b: b.rstrip(b"\n"), None),
    "blank lines at the end": (lambda b: b + b"\n\n\n", None),
    "latin-1": (lambda b: b.replace(b"Dogs", b"D\xf6gs"), ":[0-9]+: is not UTF-8"),
    "half a character": (lambda b: b.replace(b"Dogs", b"D\xc3gs"), ":[0-9]+: is not UTF-8"),
    "surrogate bytes": (lambda b: b.replace(b"Dogs", b"\xed\xa0\x80"), ":[0-9]+: is not UTF-8"),
    "nul": (lambda b: b.replace(b"Dogs", b"D\0gs"), ":[0-9]+: "),
    "utf-16": (lambda b: b.decode().encode("utf-16"), ":1: (is not UTF-8|is UTF-16|holds a NUL)"),
    "utf-16 without mark": (lambda b: b.decode().encode("utf-16-le"), ":1: "),
    "cut gzip": (lambda b: gzip.compress(b * 50)[:-9], "damaged gzip"),
    "empty": (lambda b: b"", "empty"),
}  # fmt: skip
DOGS = ["The", "Dogs", "here", "left", "."]


@pytest.mark.parametrize("odd", FILES)
@pytest.mark.parametrize("form", ["qasrl1", "bank", "gold", "squad"])
def test_odd_files_are_read_or_refused_by_line(form: str, odd: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path, DOGS, "Dogs here")
    (plain,) = read(path)
    change, refusal = FILES[odd]
    path.write_bytes(change(path.read_bytes()))
    if refusal is None:
        assert read(path) == [plain]
    else:
        with pytest.raises(DataError, match=refusal):
            load_qa_path(path)


@pytest.mark.parametrize("escape", ["\\ud800", "\\u0000", "\\uDFFFx"])
@pytest.mark.parametrize("form", ["bank", "squad"])
def test_escapes_for_no_character_are_refused(form: str, escape: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path, DOGS, "Dogs here")
    path.write_text(path.read_text().replace("Dogs", escape))
    with pytest.raises(DataError, match="no character"):
        read(path)


def test_a_pair_of_surrogate_escapes_is_a_character(tmp_path: Path) -> None:
    path = _bank(tmp_path, ["The", "🦄", "here", "left", "."], "")
    assert "\\ud83e\\udd84" in path.read_text()
    assert read(path)[0].tokens[1] == "🦄"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verbIndex": 99}, "outside"), ({"verbIndex": -1}, "outside"), ({"verbIndex": 2.5}, "whole number"),
        ({"verbIndex": 1e999}, "not JSON|whole number"), ({"verbIndex": None}, "whole number"),
        ({"questionLabels": None}, "no sentence"), ({"verbIndex": "9" * 5000}, "whole number"),
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused_by_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = _bank(tmp_path, DOGS, "")
    row = json.loads(path.read_text())
    row["verbEntries"]["3"] |= change
    path.write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"a.jsonl:2: .*({says})"):
        read(path)


def test_ten_megabytes_in_a_line(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    words = ["word" * 25] * 100_000
    examples, counts = examples_from_raw(read_qasrl1(_qasrl(tmp_path, [*DOGS[:4], *words, "."], "Dogs here")), "train")
    assert not examples and counts.skipped == {"too_long": 1}
    text = tmp_path / "text.txt"
    text.write_text("word " * 2_000_000 + "\n" + "x" * 10_000_000 + "\nThe end.\n")
    file = open_text_file(text, "text.txt")
    pieces = [natural_text(lines, file.tokenised) for _, lines in cut_documents(file, 20_000)]
    assert pieces[-1].endswith("The end.") and max(map(len, pieces)) <= 100_000
    assert sum(piece.count("word") for piece in pieces) == 2_000_000
    assert sum(piece.count("x") for piece in pieces) == 10_000_000
    assert len(tokenizer.encode(max(pieces, key=len))) > 0


def test_text_of_blank_lines_and_empty_documents(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Begin.\n" + "\n" * 120_000 + "End.\n")
    file = open_text_file(text, "text.txt")
    found = [natural_text(lines, False) for _, lines in cut_documents(file, 20_000)]
    assert "".join(found).split() == ["Begin.", "End."]
    rows = [{"text": t} for t in ("One.", "", "Two.", *["Three."] * 9, " \n ")]
    (tmp_path / "t.parquet").write_bytes(parquet(rows))
    file = open_text_file(tmp_path / "t.parquet", "t.parquet")
    assert [natural_text(lines, False) for _, lines in cut_documents(file, 100)] == ["One.", "Two.", *["Three."] * 9]


@pytest.mark.parametrize(
    "odd", ["latin-1", "half a character", "surrogate bytes", "nul", "utf-16", "cut gzip", "empty"]
)
def test_odd_text_and_pairs_are_refused(odd: str, tmp_path: Path) -> None:
    change, refusal = FILES[odd]
    text, pairs = tmp_path / "text.txt", tmp_path / "nq.jsonl"
    text.write_bytes(change(b"Cats sleep.\nDogs eat meat.\n" * 40))
    pairs.write_bytes(change(b'{"question": "who", "answer": ["Dogs"]}\n' * 40))
    with pytest.raises(DataError, match=refusal):
        found = load_text_path(text, 0)
        [*found.documents("train")]
    with pytest.raises(DataError, match=refusal):
        load_nq_path(pairs, 0)


def test_what_unpacks_to_many_times_its_size_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_MOST_UNPACKED", 1 << 16)
    monkeypatch.setattr(textfile, "_MOST_TIMES", 20)
    line = b'{"question": "who", "answer": ["Dogs"]}\n'
    for name, content in {"bomb": line * 100_000, "blank": b"\n" * 3_000_000, "one line": b"a" * 3_000_000}.items():
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match="more than 20 times its size"):
            [*text_lines(path)]
        with pytest.raises(DataError, match="more than 20 times its size"):
            [*cut_documents(open_text_file(path, name), 1_000)]
    path.write_bytes(gzip.compress(bytes(range(1, 128)).replace(b"\n", b"") * 400))
    assert len([*text_lines(path)]) == 1


def test_lines_and_files_have_a_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "MOST_LINE_BYTES", 1_000)
    (tmp_path / "x").write_bytes(b"a\n" + b"b" * 1_001 + b"\n")
    with pytest.raises(DataError, match=r"x:2: is a line of more than"):
        [*text_lines(tmp_path / "x")]
    (tmp_path / "x").write_bytes(b"[\n" * 600)
    with pytest.raises(DataError, match="holds more than"):
        [*read_squad(tmp_path / "x")]


@pytest.mark.parametrize("depth", [257, 450, 900, 100_000])
def test_rows_nested_without_end(depth: int, tmp_path: Path) -> None:
    for opens, closes in (("[", "]"), ('{"a":', "}")):
        with pytest.raises(DataError, match=r"x:3: is (nested more than 256|not JSON)"):
            json_value(opens * depth + "1" + closes * depth, tmp_path / "x", 3)
    assert json_value("[" * 256 + "]" * 256, tmp_path / "x") is not None


def test_parquet_of_few_bytes_that_stand_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet([{"text": "x" * 100_000}] * 300))
    assert path.stat().st_size < 100_000  # one value and how often it stands
    monkeypatch.setattr(parquet_files, "_MOST_BATCH_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"1,024 rows of it take \d+ MiB"):
        open_text_file(path, "t")
    monkeypatch.setattr(parquet_files, "_MOST_ROWS", 200)
    with pytest.raises(DataError, match="says that it has 300 rows"):
        open_text_file(path, "t")


def test_old_line_ends_and_marks_in_text(tmp_path: Path) -> None:
    for number, content in enumerate(
        (b"One.\nTwo.\n", b"One.\r\nTwo.\r\n", b"One.\rTwo.\r", b"\xef\xbb\xbfOne.\nTwo.")
    ):
        (tmp_path / f"{number}.txt").write_bytes(content)
        file = open_text_file(tmp_path / f"{number}.txt", "t")
        assert [natural_text(lines, False) for _, lines in cut_documents(file, 100)] == ["One.\nTwo."]


@pytest.mark.parametrize("value", ["\ud800", "\0", None, 3, []])
def test_odd_rows_of_pairs_are_refused(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "nq.jsonl"
    path.write_text(
        '{"question": "who", "answer": ["x"]}\n' + json.dumps({"question": "who", "answer": [value]}) + "\n"
    )
    with pytest.raises(DataError, match=r"nq.jsonl:2: "):
        load_nq_path(path, 0)


def test_a_document_in_two_splits_takes_its_lost_answers_along(tmp_path: Path) -> None:
    """Its questions go to the later split; an answer lost from them in training was counted under no split."""
    block = "W_{0}\t1\nDogs eat meat .\n1\teat\t1\nwho\t_\t_\teats\tmeat\t_\t_\t?\tDogs ### {1}\n\n"
    same = block.format(1, "nowhere")
    (tmp_path / "train.qa").write_text(same + "".join(block.format(n, "meat") for n in range(2, 9)))
    (tmp_path / "test.qa").write_text(same)
    found = load_qa_path(tmp_path)
    assert [example.document_id for example in found.splits["test"]] == ["W_1"]
    assert "W_1" not in {example.document_id for split in ("train", "validation") for example in found.splits[split]}


def test_a_folder_that_goes_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by 10^5 drawn inputs: other programs make and remove folders beside the data."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "gone").mkdir()
    path = _gold(tmp_path / "mine", DOGS, "Dogs here")
    listed = Path.iterdir

    def vanish(folder: Path) -> Iterator[Path]:
        if folder.name == "gone":
            raise FileNotFoundError(folder)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", vanish)
    assert len(read(path)) == 1


def test_a_damaged_neighbour_does_not_hide_the_sentences(tmp_path: Path) -> None:
    path = _gold(tmp_path, DOGS, "Dogs here")
    (tmp_path / "other.csv").write_bytes(b"\x1f\x8bno gzip at all")
    assert len(read(path)) == 1
