"""QA-SRL Gold Standard (Roit et al. 2020): CSV of questions, with its sentences in a CSV of their own; QANom's CSV.

A row is one question. ``answer_range`` holds ``start:end`` pairs (end-exclusive) and ``answer`` their texts, both
joined by ``~!~``. The sentences are looked for beside the questions and in the folders next to them, as in the release
(``gold/*.csv``, ``sentences/*.csv``).

QANom (Klein et al. 2020) writes the same columns with the sentence in each row: a noun stands where the verb would, its
place in ``target_idx``, and a row without a question says that the noun has no verb's meaning.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from emergence.data.align import normalise, split_tokens
from emergence.data.formats.raw import RawAnswer, RawQuestion
from emergence.data.formats.slots import clean_slots, finish_question
from emergence.data.formats.textfile import head, text_lines
from emergence.errors import DataError

SOURCE, QANOM = "qasrl-gs", "qanom"
_JOIN = "~!~"
_COLUMNS = ("qasrl_id", "verb_idx", "question", "answer_range", "answer")
_QANOM_COLUMNS = ("qasrl_id", "sentence", "target_idx", "question", "answer_range", "answer")
NOT_VERBAL = "not_verbal"
_SLOT_COLUMNS = ("wh", "aux", "subj", "verb_prefix", "obj", "prep", "obj2")
_RANGE = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
_INDEX = re.compile(r"[0-9]{1,9}")


def is_gold_header(line: str) -> bool:
    """Whether a CSV's first line is that of Gold Standard or QANom questions."""
    columns = {name.strip() for name in line.split(",")}
    return "qasrl_id" in columns and not columns.isdisjoint(_COLUMNS[1:])


def is_sentences_header(line: str) -> bool:
    """Whether a CSV's first line is that of Gold Standard sentences."""
    columns = {name.strip() for name in line.split(",")}
    return {"qasrl_id", "tokens"} <= columns and columns.isdisjoint(_COLUMNS[1:])


def read_gold_csv(path: Path) -> Iterator[RawQuestion]:
    """Every question of one Gold Standard CSV.

    Raises:
        DataError: A column is missing, the sentences are not beside the file, a range is not ``start:end``, or an
            index is no number or lies outside its sentence. The message has the line.
    """
    if set(_header(path)) >= {"sentence", "target_idx"}:
        yield from _read_qanom(path)
        return
    sentences = _sentences_beside(path)
    for number, row in _rows(path, _COLUMNS):
        sentence = sentences.get(row["qasrl_id"])
        if sentence is None:
            raise DataError(f"sentence {row['qasrl_id']} is in none of the sentences CSV files beside it", path, number)
        if sentence.rival:
            raise DataError(
                f"{sentence.file} and {sentence.rival} cut sentence {row['qasrl_id']} into different words: keep the "
                "one that these answers are counted in",
                path,
                number,
            )
        tokens = sentence.tokens
        redundant = row.get("is_redundant", "").strip().lower() == "true"
        problem = "redundant_question" if redundant else None
        yield _raw(row, tokens, "verb_idx", row.get("verb"), problem, path, number)


def _read_qanom(path: Path) -> Iterator[RawQuestion]:
    for number, row in _rows(path, _QANOM_COLUMNS):
        problem = NOT_VERBAL if not row["question"].strip() else None
        tokens = split_tokens(row["sentence"])
        raw = _raw(row, tokens, "target_idx", row.get("noun"), problem, path, number)
        yield replace(raw, source=QANOM)


def _raw(
    row: dict[str, str],
    tokens: tuple[str, ...],
    index_column: str,
    predicate: str | None,
    problem: str | None,
    path: Path,
    number: int,
) -> RawQuestion:
    index = row[index_column]
    if not _INDEX.fullmatch(index) or int(index) >= len(tokens):
        raise DataError(f"{index_column} {index!r} is no index into {len(tokens)} tokens", path, number)
    passive = row.get("is_passive", "").strip().lower()
    return RawQuestion(
        source=SOURCE,
        sentence_id=row["qasrl_id"],
        tokens=tokens,
        question=finish_question(row["question"]),
        answers=tuple(_answers(row, tokens, path, number)),
        predicate_index=int(index),
        predicate=predicate,
        slots=_slots(row),
        is_passive=passive == "true" if passive in ("true", "false") else None,
        problem=problem,
    )


def _answers(row: dict[str, str], tokens: tuple[str, ...], path: Path, number: int) -> Iterator[RawAnswer]:
    ranges, texts = row["answer_range"].strip(), row["answer"].split(_JOIN)
    if not ranges:
        return
    for place, text in enumerate(ranges.split(_JOIN)):
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise DataError(f"answer_range {text!r} is no start:end", path, number)
        start, end = int(match[1]), int(match[2])
        spelled = " ".join(tokens[start:end])
        agrees = place < len(texts) and _ascii(texts[place]) == _ascii(spelled)
        yield RawAnswer(span=(start, end) if agrees else None, given=True)


def _ascii(text: str) -> str:
    """``text`` as the release's answer column writes it, with ``?`` for every letter outside ASCII."""
    return re.sub(r"[^\x00-\x7f]", "?", normalise(" ".join(text.split())))


def _slots(row: dict[str, str]) -> tuple[str, ...] | None:
    """Seven slots. The inflected verb has no column, so it is the question's word before obj, prep and obj2."""
    if any(name not in row for name in _SLOT_COLUMNS):
        return None
    wh, aux, subj, prefix, obj, prep, obj2 = clean_slots([row[name].replace(_JOIN, " ") for name in _SLOT_COLUMNS])
    after = f"{obj} {prep} {obj2}".lower().split()
    words = row["question"].rstrip("? ").lower().split()
    if len(words) <= len(after) or words[len(words) - len(after) :] != after:
        return None
    return wh, aux, subj, f"{prefix} {words[len(words) - len(after) - 1]}".strip(), obj, prep, obj2


def _header(path: Path) -> list[str]:
    """The names in a CSV's first line."""
    first = head(path, 4096).partition(b"\n")[0].decode("utf-8", "replace")
    return [name.strip() for name in next(csv.reader([first.rstrip("\r")]), [])]


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(line + "\n" for _, line in text_lines(path))
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in columns if name not in reader.fieldnames]
        if missing:
            raise DataError(f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", path, 1)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"has not the {len(reader.fieldnames or ())} columns of the header", path, reader.line_num
                )
            if any(value.strip() for value in row.values()):  # spreadsheets leave rows of commas
                yield reader.line_num, row
    except csv.Error as exc:
        raise DataError(f"is no CSV ({exc})", path, max(1, reader.line_num)) from exc


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, sorted. Nothing if it may not be read, is a file, or went away meanwhile."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _holds_sentences(file: Path) -> bool:
    try:
        return is_sentences_header(head(file, 4096).partition(b"\n")[0].decode("utf-8", "replace"))
    except DataError:  # a damaged file of somebody else's would not hold this file's sentences
        return False


@dataclass(frozen=True)
class _Sentence:
    """The words of a sentence, the file that holds them, and a file as near that cuts it into others."""

    tokens: tuple[str, ...]
    file: Path
    rival: Path | None = None


def _sentences_beside(path: Path) -> dict[str, _Sentence]:
    """The sentences by id. A file in the questions' own folder counts before one above, and that before one beside."""
    folder = path.resolve().parent
    nearness = [[folder], [folder.parent], _inside(folder.parent)]
    sentences: dict[str, _Sentence] = {}
    seen: set[Path] = set()
    for places in nearness:
        here: dict[str, _Sentence] = {}
        files = [file for place in places for file in _inside(place) if file.suffix == ".csv" and file not in seen]
        for file in files:
            seen.add(file)
            if file.is_file() and _holds_sentences(file):
                for _, row in _rows(file, ("qasrl_id", "tokens")):
                    tokens = split_tokens(row["tokens"])
                    known = here.setdefault(row["qasrl_id"], _Sentence(tokens, file))
                    if known.tokens != tokens:
                        here[row["qasrl_id"]] = replace(known, rival=file)
        sentences = here | sentences
    if not sentences:
        raise DataError("needs its sentences: put the CSV with the columns qasrl_id,tokens beside it", path)
    return sentences
