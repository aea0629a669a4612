"""Files as they are in the world: pointers, copies, other shapes, other units, other spellings. Each was somebody's."""

from __future__ import annotations

import gzip
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from emergence.data.align import SentenceIndex
from emergence.data.formats.squad import read_squad, split_words
from emergence.data.nq import load_nq_path
from emergence.data.qa_load import load_qa_path
from emergence.data.records import DROP_REASONS, FilterCounts
from emergence.data.text import load_text_path
from emergence.errors import DataError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4f1c\nsize 539566975\n"


def squad(tmp_path: Path, name: str = "squad.json", **change: Any) -> Path:
    """A SQuAD file of twelve articles with one question each."""
    fields: dict[str, Any] = {"context": "Ann came home.", "question": "Who came?", "answers": [("Ann", 0)], **change}
    answers = fields["answers"]
    if isinstance(answers, list) and answers and isinstance(answers[0], tuple):
        answers = [{"text": text, "answer_start": start} for text, start in answers]
    articles = [
        {"title": f"T{i}", "paragraphs": [{"context": fields["context"], "qas": [
            {"id": f"q{i}", "question": fields["question"], "answers": answers}]}]}
        for i in range(12)
    ]  # fmt: skip
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "1.1", "data": articles}, ensure_ascii=False), encoding="utf-8")
    return path


def kept(path: Path) -> int:
    return sum(map(len, load_qa_path(path).splits.values()))


# Pointers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.jsonl", "train.qa", "train.json", "train.parquet", "train.csv", "a.tokens"])
@pytest.mark.parametrize("load", [load_qa_path, lambda p: load_text_path(p, 0), lambda p: load_nq_path(p, 0)])
def test_a_pointer_of_git_lfs_is_refused_by_name(tmp_path: Path, name: str, load: Any) -> None:
    path = tmp_path / name
    path.write_text(POINTER)
    with pytest.raises(DataError, match="is a Git LFS pointer in place of the file: run `git lfs pull`"):
        load(path)


def test_a_pointer_among_whole_files_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("A sentence of text.\n" * 400)
    (tmp_path / "valid.txt").write_text(POINTER)
    with pytest.raises(DataError, match=r"valid\.txt: is a Git LFS pointer"):
        load_text_path(tmp_path, 0)
    packed = tmp_path / "packed" / "train.jsonl.gz"
    packed.parent.mkdir()
    packed.write_text(POINTER)
    with pytest.raises(DataError, match="is a Git LFS pointer"):
        load_qa_path(packed.parent)


# Copies --------------------------------------------------------------------------------------------


def test_a_text_twice_under_two_names_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "".join(f" = Title {i} = \n\nA sentence of text, and one more.\n\n" for i in range(60))
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "wiki.train.tokens").write_text(text)
    with caplog.at_level(logging.INFO):
        loaded = load_text_path(tmp_path, 0)
    assert [file.name for file in loaded.files["train"]] == ["train.txt"]
    assert loaded.location()["ignored_files"] == ["wiki.train.tokens"] and "left aside" in caplog.text
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "train.txt").write_text(text)
    assert load_text_path(alone, 0).fingerprint == loaded.fingerprint


def test_questions_twice_under_two_names_count_once(tmp_path: Path) -> None:
    squad(tmp_path, "a/one.json")
    squad(tmp_path, "a/two.json")
    dataset = load_qa_path(tmp_path / "a")
    assert dataset.provenance["left_aside_copies"] == ["two.json"]
    assert all(counts.skipped == {} for counts in dataset.filtering.values())
    # The same bytes as training and as test questions are no copy to be left aside: that is refused.
    squad(tmp_path, "b/train.json")
    squad(tmp_path, "b/test.json")
    with pytest.raises(DataError, match="also stands in one that comes after it"):
        load_qa_path(tmp_path / "b")


def test_the_release_folder_of_nq_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(name: str, numbers: range, **answer: Any) -> None:
        rows = [json.dumps({"question": f"who wrote book {i}", **answer}) for i in numbers]
        (tmp_path / name).write_text("\n".join(rows) + "\n")

    write("NQ-open.train.jsonl", range(40), answer=["Ann Lee"])
    write("NQ-open.dev.jsonl", range(40, 60), answer=["Ann Lee"])
    write("NQ-open.dev.sample.jsonl", range(40, 45), answer=["Ann Lee"])
    write("NQ-open.test.no-annotations.jsonl", range(60, 70))
    with caplog.at_level(logging.INFO):
        data = load_nq_path(tmp_path, 0)
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 40, "validation": 20}
    assert data.provenance["left_aside_without_answers"] == ["NQ-open.test.no-annotations.jsonl"]
    assert "5 of 5 pairs stand in another file" in caplog.text and "have no answers, left aside" in caplog.text
    with pytest.raises(DataError, match='"answer" must be a list'):
        load_nq_path(tmp_path / "NQ-open.test.no-annotations.jsonl", 0)
    for path in tmp_path.glob("NQ-open.[td][re]*"):
        if "no-annotations" not in path.name:
            path.unlink()
    with pytest.raises(DataError, match="no NQ-open data with answers"):
        load_nq_path(tmp_path, 0)


# Words and ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["مُحَمَّد", "שָׁלוֹם", "नमस्ते", "தமிழ்", "ไทย์", "ខ្មែរ", "é", "Ångström", "नहीं"]
)  # fmt: skip
def test_marks_belong_to_their_letters(word: str, tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", word)
    for spelled in (word, decomposed):
        assert split_words(f"The teacher {spelled}, came.") == ("The", "teacher", spelled, ",", "came", ".")
    context = f"The teacher {word} came home."
    assert kept(squad(tmp_path, context=context, answers=[(word, context.index(word))])) == 12


def test_an_id_counts_within_its_context(tmp_path: Path) -> None:
    """Two translations of one data set share all their ids; so may two questions put to one text."""
    squad(tmp_path, "en.json")
    squad(tmp_path, "de.json", context="Anna kam heim.", question="Wer kam?", answers=[("Anna", 0)])
    squad(tmp_path, "de2.json", question="Wer kam?")
    dataset = load_qa_path(tmp_path)
    examples = [example for split in dataset.splits.values() for example in split]
    assert len(examples) == 36 == len({example.id for example in examples})
    assert all(not counts.skipped for counts in dataset.filtering.values())
    other_order = tmp_path / "other"
    for new, old in (("a", "en"), ("b", "de2"), ("c", "de")):
        other_order.mkdir(exist_ok=True)
        (other_order / f"{new}.json").write_bytes((tmp_path / f"{old}.json").read_bytes())
    for name in ("en", "de", "de2"):
        (tmp_path / f"{name}.json").unlink()
    assert load_qa_path(other_order).fingerprint == dataset.fingerprint


# Shapes and units ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Ann"], "answer_start": [0]},
        {"text": "Ann", "answer_start": 0},
        [{"text": "Ann", "answer_start": 0}],
        [{"text": "Ann", "answer_start": 0}, {"text": "Ann", "answer_start": 0}],
    ],
)
def test_answers_have_many_shapes(answers: Any, tmp_path: Path) -> None:
    assert kept(squad(tmp_path, answers=answers)) == 12
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": f"q{i}", "title": f"T{i}", "context": "Ann came home.", "question": "Who came?", "answers": answers}
        for i in range(12)
    ]
    table = tmp_path / "parquet" / "train.parquet"
    table.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([*rows, {**rows[0], "id": "none", "answers": None}]), table)
    dataset = load_qa_path(table)
    assert sum(map(len, dataset.splits.values())) == 12
    assert sum(counts.skipped.get("no_answer", 0) for counts in dataset.filtering.values()) == 1


def test_no_shape_of_answers_is_one_line(tmp_path: Path) -> None:
    for answers, reason in (({"text": ["Ann"], "answer_start": []}, "1 answers, but 0 places"), ({"text": 1}, "field")):
        with pytest.raises(DataError, match=reason):
            kept(squad(tmp_path, answers=answers))


@pytest.mark.parametrize(
    ("context", "encoding", "unit"),
    [
        ("In Zürich came Ann Lee at noon.", "utf-8", "bytes of UTF-8"),
        ("“Hello”, said Ann Lee at noon.", "utf-8", "bytes of UTF-8"),
        ("The 🦊 met Ann Lee at noon.", "utf-16-le", "units of UTF-16"),
        ("The 🦊 met Ann Lee at noon.", "utf-8", "bytes of UTF-8"),
    ],
)
def test_places_in_another_unit_are_recognised_and_said(
    context: str, encoding: str, unit: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = context[: context.index("Ann")].encode(encoding)
    start = len(before) // (2 if encoding == "utf-16-le" else 1)
    assert start != context.index("Ann")
    path = squad(tmp_path, context=context, answers=[("Ann Lee", start)])
    with caplog.at_level(logging.INFO):
        raws = list(read_squad(path))
    assert {raw.tokens[slice(*raw.answers[0].span or (0, 0))] for raw in raws} == {("Ann", "Lee")}
    assert f"12 answers have their place counted in {unit}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO), pytest.raises(DataError, match="unaligned_span"):
        kept(squad(tmp_path, context=f"{context} {context}", answers=[("Ann Lee", start + 3)]))  # right in no unit
    assert "counted in" not in caplog.text


# QANom and the Gold Standard -----------------------------------------------------------------------

QANOM = (
    "qasrl_id,sentence,target_idx,key,noun,worker_id,is_verbal,verb_form,question,answer_range,answer,wh,subj,obj,obj2,"
    "aux,prep,verb_prefix,is_passive,is_negated\n"
)


def qanom_row(i: int, index: int = 4, question: str = "What did someone repair?") -> str:
    where, text = ("6:8", "the bridge") if question else ("", "")
    return (
        f"Own:{i},The council announced the repair of the bridge .,{index},Own:{i}_{index},repair,W,"
        f"{bool(question)},repair,{question},{where},{text},what,someone,,,did,,,False,False\n"
    )


def test_qanoms_own_csv(tmp_path: Path) -> None:
    path = tmp_path / "annot.train.csv"
    path.write_text(QANOM + "".join(map(qanom_row, range(12))) + qanom_row(12, question=""))
    dataset = load_qa_path(path)
    examples = [example for split in dataset.splits.values() for example in split]
    assert dataset.name == "qanom" and len(examples) == 12
    first = examples[0]
    assert (first.tokens[first.predicate_index or 0], first.answers[0].text) == ("repair", "the bridge")
    assert first.slots == ("what", "did", "someone", "repair", "", "", "") and first.is_passive is False
    assert sum(counts.skipped.get("not_verbal", 0) for counts in dataset.filtering.values()) == 1
    path.write_text(QANOM + qanom_row(0, index=9))
    with pytest.raises(DataError, match=r":2: target_idx '9' is no index into 9 tokens"):
        load_qa_path(path)


def test_two_sentences_files_that_disagree_are_named(tmp_path: Path) -> None:
    (tmp_path / "gold").mkdir()
    (tmp_path / "sentences").mkdir()
    header = "qasrl_id,verb_idx,verb,question,answer_range,answer\n"
    rows = "".join(f"S:{i},4,gave,Who gave something?,0:1,Ann\n" for i in range(12))
    (tmp_path / "gold" / "wiki.dev.csv").write_text(header + rows)
    sentences = [f"S:{i},Ann `` Lee '' gave it away .\n" for i in range(12)]
    (tmp_path / "sentences" / "a.csv").write_text("qasrl_id,tokens\n" + "".join(sentences))
    (tmp_path / "sentences" / "b.csv").write_text("qasrl_id,tokens\n" + "".join(sentences[:6]))
    assert kept(tmp_path) == 12, "the same words twice are no contradiction"
    (tmp_path / "sentences" / "b.csv").write_text('qasrl_id,tokens\nT:3,"Ann ""Lee"" gave it away ."\n')
    (tmp_path / "sentences" / "c.csv").write_text('qasrl_id,tokens\nT:3,"Ann `` Lee gave it away ."\n')
    assert kept(tmp_path) == 12, "nobody asks about the sentence that they disagree about"
    (tmp_path / "sentences" / "b.csv").write_text('qasrl_id,tokens\nS:3,"Ann ""Lee"" gave it away ."\n')
    with pytest.raises(DataError, match=r"wiki\.dev\.csv:5: .*a\.csv and .*b\.csv cut sentence S:3 into different"):
        load_qa_path(tmp_path)


def test_the_nearest_sentences_file_counts(tmp_path: Path) -> None:
    """Another data set in a folder beside this one may number its sentences alike."""
    for name, words in (("mine", "Ann gave it ."), ("other", "Bob and Cy left .")):
        folder = tmp_path / name
        folder.mkdir()
        rows = "".join(f"S:{i},1,{words.split()[1]},Who?,0:1,{words.split()[0]}\n" for i in range(12))
        (folder / "x.train.csv").write_text("qasrl_id,verb_idx,verb,question,answer_range,answer\n" + rows)
        sentences = "".join(f"S:{i},{words}\n" for i in range(12))
        (folder / "sentences.csv").write_text("qasrl_id,tokens\n" + sentences)
    for name, first in (("mine", "Ann"), ("other", "Bob")):
        dataset = load_qa_path(tmp_path / name)
        assert {example.tokens[0] for split in dataset.splits.values() for example in split} == {first}


# Spellings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "span", "kind"),
    [
        ("Ann ( the nurse )", (0, 5), "unique+marks"),
        ("ann ( the nurse ) .", (0, 5), "unique+casefold+trimmed+marks"),
        ('" no "', (6, 9), "unique+marks"),
        ("“ no ”", (6, 9), "unique+marks"),
        ("Bob ’s", (10, 12), "unique+marks"),
        ("Bob 's \t ", (10, 12), "unique"),
        ("Ann -LRB- the nurse -RRB-", (0, 5), "unique"),
    ],
)
def test_brackets_and_quotes_have_many_spellings(answer: str, span: tuple[int, int], kind: str) -> None:
    sentence = SentenceIndex(
        ["Ann", "-LRB-", "the", "nurse", "-RRB-", "said", "``", "no", "''", "to", "Bob", "'s", "friend"]
    )
    place = sentence.align(answer, 5)
    assert not isinstance(place, str) and ((place.start, place.end), place.kind) == (span, kind)


def test_other_words_stay_unaligned() -> None:
    sentence = SentenceIndex(["Ann", "-LRB-", "the", "nurse", "-RRB-", "left"])
    assert sentence.align("Ann ( a nurse )", 5) == sentence.align("{ the nurse }", 5) == "unaligned_span"


def test_eos_of_old_wikitext_copies_ends_a_line(tmp_path: Path) -> None:
    body = "".join(f" = Title {i} = <eos> <eos> Ann , who came , left . <eos> " for i in range(30))
    (tmp_path / "train.txt").write_text(body)
    text = " ".join(doc.text for doc in load_text_path(tmp_path, 0).documents("train"))
    assert "<eos>" not in text and "Ann, who came, left." in text


# What is said --------------------------------------------------------------------------------------


def test_little_held_out_text_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, repeats in (("train", 400), ("valid", 10), ("test", 200)):
        (tmp_path / f"{name}.txt").write_text("A sentence of text.\n" * repeats)
    load_text_path(tmp_path, 0)
    assert "validation text has 200 bytes" in caplog.text and "test text" not in caplog.text


def test_training_and_test_questions_of_two_data_sets_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    block = "OWN_{}\t1\nAnn gave it away .\n1\tgave\t1\nwho\t_\t_\tgave\tit\t_\t_\t?\tAnn\n\n"
    (tmp_path / "train.qa").write_text("".join(block.format(i) for i in range(12)))
    (tmp_path / "dev.qa").write_text("".join(block.format(i) for i in range(20, 24)))
    squad(tmp_path, "test.json")
    load_qa_path(tmp_path, families=("qasrl", "squad"))
    assert "training questions are from qasrl and test questions from squad" in caplog.text


def test_what_is_lost_is_said_in_words() -> None:
    counts = FilterCounts(total=11_896, kept=11_480, skipped={"no_answer": 9, "too_long": 407})
    assert counts.in_words() == (
        "11,480 of 11,896 questions kept; dropped 407: longer than the model's sequences: raise model.sequence_length; "
        "dropped 9: without an answer"
    )
    assert FilterCounts(total=3, kept=3).in_words() == "3 of 3 questions kept"
    assert all("\n" not in words for words in DROP_REASONS.values())


def test_gzip_is_read_by_content_still(tmp_path: Path) -> None:
    path = squad(tmp_path)
    packed = tmp_path / "packed.json"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert kept(packed) == 12
