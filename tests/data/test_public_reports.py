"""What public reports on other programs say of files like ours, tried on these readers.

Each case names its report. Most are of data that a person downloads today; the files here are cut down to the fault.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import recognise
from emergence.data.nq import load_nq_path
from emergence.data.text_files import cut_documents, open_text_file
from emergence.errors import DataError

SENTENCES = "qasrl_id,tokens\nM:1,Dogs eat meat .\n"
GOLD = "qasrl_id,verb_idx,verb,question,answer_range,answer"
ROW = "M:1,1,eat,What eats something?,0:1,Dogs"
LABEL = {
    "questionString": "What eats something?",
    "questionSlots": dict(
        zip(
            ("wh", "aux", "subj", "verb", "obj", "prep", "obj2"),
            ["what", "_", "_", "eats", "something", "_", "_"],
            strict=True,
        )
    ),
    "answerJudgments": [{"sourceId": "w1", "isValid": True, "spans": [[0, 1]]}],
}
BANK = {
    "sentenceId": "M:1",
    "sentenceTokens": ["Dogs", "eat", "meat", "."],
    "verbEntries": {"1": {"verbIndex": 1, "questionLabels": {"What eats something?": LABEL}}},
}


def squad(context: str, *answers: tuple[str, int], **more: object) -> str:
    pairs = [{"text": text, "answer_start": start} for text, start in answers]
    question = {"id": "1", "question": "Who?", "answers": pairs, **more}
    return json.dumps(
        {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": [question]}]}]}
    )


def read(folder: Path, name: str, files: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """Answers of the first file as its format reads them, and what was dropped, by reason."""
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")
    found = recognise(folder / name)
    assert found is not None, "no format"
    examples, counts = examples_from_raw(found.read(folder / name), "train")
    spans = [" ".join(e.tokens[a.start : a.end]) for e in examples for a in e.answers]
    return spans, counts.skipped


ARABIC = "ولد نزار في دمشق القديمة في حيّ مئذنة الشحم ."
#: Report -> file, answer by its words, reason to drop it.
QUESTIONS: dict[str, tuple[dict[str, str], list[str], dict[str, int]]] = {
    "huggingface/datasets#2585: place off by one": (
        {"a.json": squad("He knows the Pure Land school .", ("Pure Land", 12))}, ["Pure Land"], {}
    ),
    "husseinmozannar/SOQAL#8: every place is 0": ({"a.json": squad(ARABIC, ("حيّ مئذنة", 0))}, ["حيّ مئذنة"], {}),
    "alontalmor/MultiQA#24: place off by five": (
        {"a.json": squad("He saw The Big Bang Theory last night .", ("The Big Bang Theory", 12))},
        ["The Big Bang Theory"], {},
    ),
    "alontalmor/MultiQA#24: and the text stands twice": (
        {"a.json": squad("He saw it and saw it again .", ("saw", 1))}, [], {"unaligned_span": 1}
    ),
    "rajpurkar/SQuAD-explorer#16: a digit of a year": (
        {"a.json": squad("Born in 1810 , he began in 1817 and had 7 pupils .", ("7", 30))}, [], {"unaligned_span": 1}
    ),
    "haonan-li/MultiSpanQA#3: words around the answer": (
        {"a.json": squad("In Percy Jackson & the Olympians he plays .", ("Percy Jackson & the Olympians", 18))},
        ["Percy Jackson & the Olympians"], {},
    ),
    "luhua-rain/MRC_Competition_Dureader#35: no blanks": (
        {"a.json": squad("北京是中国的首都。", ("中国", 3))}, [], {"unaligned_span": 1}
    ),
    "PaddlePaddle/PaddleNLP#880: two blanks before the answer": (
        {"a.json": squad("where  is the mass and  is the centripetal force .", ("centripetal", 31))},
        ["centripetal"], {},
    ),
    "rajpurkar/SQuAD-explorer (v2): plausible answers alone": (
        {"a.json": squad("Dogs eat .", is_impossible=True, plausible_answers=[{"text": "Dogs", "answer_start": 0}])},
        [], {"no_answer": 1},
    ),
    "minimaxir/gpt-2-simple#235: empty lines in a CSV": (
        {"g.csv": f"{GOLD}\n\n{ROW}\n,,,,,\n", "s.csv": SENTENCES}, ["Dogs"], {}
    ),
    "openspending/openspending#532: blanks around a CSV's titles": (
        {"g.csv": f"{GOLD.replace(',question,', ', question ,')}\n{ROW}\n", "s.csv": SENTENCES}, ["Dogs"], {}
    ),
    "plroit/qasrl-gs#2: a verb that is not the sentence's": (
        {"g.csv": f"{GOLD}\n{ROW.replace(',eat,', ',devour,')}\n", "s.csv": SENTENCES}, [], {"bad_predicate_index": 1}
    ),
    "ziqian98 in asyml/forte#246: lines of JSON named .json": (
        {"b.json": json.dumps(BANK) + "\n" + json.dumps({**BANK, "sentenceId": "M:2"}) + "\n"}, ["Dogs", "Dogs"], {}
    ),
    "hipe-eval/HIPE-2022-data#4: empty words, and blanks in one": (
        {"b.jsonl": json.dumps({**BANK, "sentenceTokens": ["Dogs", "eat", "", " meat", "."]})}, ["Dogs"], {}
    ),
    "asahi417/tner#27: a word of characters that cannot be seen": (
        {"b.jsonl": json.dumps({**BANK, "sentenceTokens": ["Dogs", "eat", "\u200b", "."]})}, ["Dogs"], {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("report", QUESTIONS)
def test_questions(report: str, tmp_path: Path) -> None:
    files, answers, dropped = QUESTIONS[report]
    assert read(tmp_path, next(iter(files)), files) == (answers, dropped)


def test_what_stands_elsewhere_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read(tmp_path, "a.json", {"a.json": squad("He knows the Pure Land school .", ("Pure Land", 12))})
    assert "answer not where the file says, but once in the context: read there" in caplog.text


LINE, EATS = json.dumps(BANK), squad("Dogs eat .", ("Dogs", 0))


@pytest.mark.parametrize(
    ("report", "content", "line"),
    [
        ("PeterGriffinJin/Search-R1#50: cut within a line", f"{LINE}\n" * 3 + LINE[:150], ":4: is not JSON"),
        ("DataScienceUIBK/ChroniclingAmericaQA#2: half a file", EATS[:90], ":1: is not JSON"),
        ("deepset-ai/haystack#2: other names", EATS.replace("answer_start", "offset_start"), "no field 'answer_start'"),
    ],
)
def test_refused_in_one_line_that_names_the_place(report: str, content: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=line) as refused:
        read(tmp_path, "a.json", {"a.json": content})
    assert "\n" not in str(refused.value) and " at at " not in str(refused.value)


def test_usail_hkust_jailjudge_1_an_array_named_jsonl_is_of_no_format(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps([BANK]), encoding="utf-8")
    assert recognise(tmp_path / "b.jsonl") is None


def test_shmsw25_ambigqa_6_empty_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"question": "who", "answer": ["", "me"]},
        {"question": "when", "answer": [""]},
        {"question": "o", "answer": "x"},
    ]
    (tmp_path / "nq.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with caplog.at_level(logging.INFO):
        pairs = [pair for split in load_nq_path(tmp_path / "nq.jsonl", seed=0).splits.values() for pair in split]
    assert sorted((pair.question, pair.answers) for pair in pairs) == [("o", ("x",)), ("who", ("me",))]
    assert "1 question without an answer left aside" in caplog.text


@pytest.mark.parametrize(
    ("report", "content", "kept"),
    [
        (
            "spacemanidol/MSMARCO#26: a blank decoded twice stays as it is",
            "continuousÂ\u00a0iv\n",
            ["continuousÂ\u00a0iv"],
        ),
        ("pmichel31415/mtnt#3: a line of one tab", "One.\n\t\nTwo.\n", ["One.", "\t", "Two."]),
        ("huggingface/datasets#622: line ends that only Python knows", "a\u2028b\x85c\n", ["a\u2028b\x85c"]),
    ],
)
def test_texts(report: str, content: str, kept: list[str], tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(content, encoding="utf-8")
    assert list(cut_documents(open_text_file(tmp_path / "t.txt", "t.txt"), 10_000)) == [(True, kept)]
