"""SQuAD JSON and the hub's parquet tables; files that are no question-answering data at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emergence.data.formats import squad
from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import recognise
from emergence.errors import DataError
from tests.data.qa_files import hub_rows, read_all, write

CONTEXT = "Levi's Stadium, in Santa Clara, cost $1.3 billion. It is a 68,500-seat stadium (it's big)."


def squad_json(*questions: tuple[str, list[tuple[str, int]]], context: str = CONTEXT) -> str:
    qas = [
        {"id": f"q{n}", "question": text, "answers": [{"text": a, "answer_start": start} for a, start in answers]}
        for n, (text, answers) in enumerate(questions)
    ]
    return json.dumps(
        {"version": "1.1", "data": [{"title": "Stadium", "paragraphs": [{"context": context, "qas": qas}]}]}
    )


def test_squad_offsets_become_whole_words(tmp_path: Path) -> None:
    cost = (
        "What did it cost ?",
        [("$1.3 billion", CONTEXT.index("$")), *[("1.3", CONTEXT.index("1.3"))] * 2],
    )
    file = write(tmp_path / "x", squad_json(cost, ("Which?", [("Levi's Stadium", 0)])))
    first, second = read_all(file)
    assert [(" ".join(first.tokens[a.start : a.end]), a.text, a.votes) for a in first.answers] == [
        ("1.3", "1.3", 2),
        ("$ 1.3 billion", "$1.3 billion", 1),
    ]
    assert first.question == "What did it cost?"
    assert (first.id, first.document_id, first.predicate_index, first.slots, first.wh) == (
        "squad:q0",
        "Stadium",
        None,
        None,
        "what",
    )
    assert second.tokens[:4] == ("Levi", "'s", "Stadium", ",")
    assert second.sentence_id == first.sentence_id


def test_squad_drops_are_counted(tmp_path: Path) -> None:
    seat = CONTEXT.index("68,500")
    questions = [
        ("Inside a word?", [("68,500", seat)]),
        ("Not in it?", [("Nowhere Land", 3)]),
        ("Impossible?", []),
        ("Which?", [("Levi's Stadium", 0)]),
        ("Which?", [("Stadium", 7)]),
    ]
    examples, counts = examples_from_raw(squad.read_squad(write(tmp_path / "x", squad_json(*questions))), "train")
    assert counts.skipped == {"unaligned_span": 2, "no_answer": 1}
    assert len(examples) == 2
    counts.check()


def test_squad_damage_is_named(tmp_path: Path) -> None:
    good = squad_json(("Which?", [("Levi's Stadium", 0)]))
    for content, message in [
        (good.replace('"data"', '\n"data"')[:-2], ":2: is not JSON"),
        (good.replace('"context"', '"text"'), "no field 'context'"),
        (good.replace('"answer_start"', '"start"'), "no field 'answer_start'"),
    ]:
        with pytest.raises(DataError, match=message):
            list(squad.read_squad(write(tmp_path / "squad.json", content)))


@pytest.mark.parametrize("columns", ["qasrl1", "bank", "squad"])
def test_parquet_in_the_hubs_columns(tmp_path: Path, columns: str) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = hub_rows()[:1]
    if columns == "bank":
        rows = [rows[0] | {"answer_ranges": [[4, 6]]}]
    if columns == "squad":
        answers = {"text": ["Levi's Stadium"], "answer_start": [0]}
        rows = [{"id": "q", "title": "T", "context": CONTEXT, "question": "Which?", "answers": answers}]
    file = tmp_path / "0000.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    (example,) = read_all(file)
    assert example.answers[0].alignment == ("nearest" if columns == "qasrl1" else "given")
    damaged = write(tmp_path / "bad.parquet", file.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged parquet"):
        recognise(damaged)


@pytest.mark.parametrize(
    "content",
    [
        "just some text\n",
        "Wiki1k:wikipedia:16016:90:8\t3 4 6\t76\t0\t3\tHow many are associated?\t0 1 2 3\t261:0\t60:3\n",  # QAMR
        "the\t120\nof\t80\n",
        '{"question": "who?", "answer": ["me"]}\n',
        "a,b,c\n1,2,3\n",
        b"\x89PNG\r\n\x1a\n\0\0",
    ],
)
def test_other_files_are_not_recognised(tmp_path: Path, content: str | bytes) -> None:
    assert recognise(write(tmp_path / "file", content)) is None
