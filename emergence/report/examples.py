"""Questions to read: the sentence with predicate, gold and predicted span, for every role, right and wrong.

Nobody picks them. They are a seeded draw among all test questions of a role, and the rule stands beside them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from emergence.data.qa_encoding import word_pieces
from emergence.errors import EmergenceError
from emergence.findings.comparable import ComparableSet
from emergence.measures.conditional import BILINEAR
from emergence.measures.emergence_score import CELLS, FROZEN, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.report.blocks import Answer, Block, Example, Heading, Piece, Text
from emergence.report.charts.rows import CELL_NAMES

#: Seed of the draw.
SEED = 0
#: How many roles are shown, the most frequent first, and how many questions of each, both right and wrong.
N_ROLES, N_EACH = 5, 2
#: The answer of the first of these cells that was run is marked in the sentence.
MARKED_FIRST = (FROZEN, FULL, RANDOM_FROZEN, RANDOM_FULL)
GAP = "…"
#: What a row tells of an answer that can be shown.
_SHOWN = frozenset({"question", "golds", "prediction", "prediction_text", "em", "f1_tokens"})

Prediction = Mapping[str, Any]


def example_blocks(comparable: ComparableSet) -> list[Block]:
    """Examples of one set. There are none without predictions that tell what was answered."""
    by_cell = _predictions(comparable)
    if not by_cell:
        return []
    marked = next(cell for cell in MARKED_FIRST if cell in by_cell)
    questions = sorted(by_cell[marked].values(), key=lambda row: str(row["id"]))
    words = _known_words(row for rows in by_cell.values() for row in rows.values())
    rng = np.random.default_rng(SEED)
    key = "asked_role" if all("asked_role" in row for row in questions) else "role"  # older runs: the wh-word
    roles = Counter(str(row.get(key) or "other") for row in questions)
    blocks: list[Block] = [Heading(comparable.label), Text(_rule(marked, questions, len(roles)))]
    if not all(row.get("words") for row in questions):
        blocks.append(
            Text(f"These runs are older than the sentences in predictions.jsonl: {GAP} stands for words no span shows.")
        )
    for role, count in sorted(roles.items(), key=lambda item: (-item[1], item[0]))[:N_ROLES]:
        mine = [row for row in questions if str(row.get(key) or "other") == role]
        right, wrong = [row for row in mine if row["em"] == 1], [row for row in mine if row["em"] != 1]
        blocks.append(
            Heading(f"{role}: {count:,} questions, {len(right):,} answered exactly ({len(right) / count:.0%})")
        )
        for pool in (right, wrong):
            drawn = rng.permutation(len(pool))[:N_EACH]
            blocks += [_example(pool[i], by_cell, marked, words) for i in drawn]
    return blocks


def _rule(marked: str, questions: Sequence[Prediction], n_roles: int) -> str:
    groups = "asked roles" if all("asked_role" in row for row in questions) else "wh-words"
    which = f"the {N_ROLES} most frequent" if n_roles > N_ROLES else f"all {n_roles}"
    return (
        f"Drawn, not chosen: the {len(questions):,} test questions sorted by id; for each of {which} {groups}, "
        f"{N_EACH} that the run marked below ({CELL_NAMES[marked]}, lowest seed) answered exactly and {N_EACH} that it "
        f"did not, by numpy's default_rng({SEED})."
    )


def _predictions(comparable: ComparableSet) -> dict[str, dict[str, Prediction]]:
    """Cell -> question id -> row of its first seed. Cells without readable predictions are left out."""
    by_cell: dict[str, dict[str, Prediction]] = {}
    for cell in CELLS:
        for item in comparable.cells.get(cell, ()):
            if item.scores is None or not item.scores.row_keys >= _SHOWN:
                continue
            with contextlib.suppress(EmergenceError):
                by_cell[cell] = {str(row["id"]): row for row in item.scores.run.read_predictions()}
                break
    return by_cell


def _known_words(rows: Iterable[Prediction]) -> dict[tuple[str, str], dict[int, str]]:
    """Sentence -> place -> word: the whole sentence, or what golds, predictions and predicates show of it."""
    known: dict[tuple[str, str], dict[int, str]] = {}
    for row in rows:
        words = known.setdefault(_sentence(row), {})
        if row.get("words"):
            words.update(enumerate(map(str, row["words"])))
            continue
        spans = [
            *zip(row["golds"], row.get("gold_texts", ()), strict=False),
            (row["prediction"], row["prediction_text"]),
        ]
        for (start, end), text in spans:
            parts = str(text).split(" ")
            if len(parts) == end - start:
                words.update(zip(range(start, end), parts, strict=True))
        if row.get("predicate_index") is not None:
            words[row["predicate_index"]] = str(row["predicate"])
    return known


def _sentence(row: Prediction) -> tuple[str, str]:
    return str(row["source"]), str(row["sentence_id"])


def _example(
    row: Prediction,
    by_cell: Mapping[str, Mapping[str, Prediction]],
    marked: str,
    words: Mapping[tuple[str, str], Mapping[int, str]],
) -> Example:
    order = [marked, *(cell for cell in CELLS if cell in by_cell and cell != marked)]
    answers = []
    for cell in order:
        other = by_cell[cell].get(str(row["id"]))
        if other is not None:
            text, f1 = running(other["prediction_text"]), float(other["f1_tokens"])
            answers.append(Answer(CELL_NAMES[cell], text, other["em"] == 1, f1))
            answers += _bilinear(other, cell)
    pieces = _pieces(words[_sentence(row)], row, is_whole=bool(row.get("words")))
    golds = tuple(dict.fromkeys(running(text) for text in row.get("gold_texts", ())))
    return Example(str(row["question"]), str(row["id"]), pieces, golds, tuple(answers))


def _bilinear(row: Prediction, cell: str) -> list[Answer]:
    """The bilinear probe's answer, where a frozen run fitted one."""
    scored = row.get("readouts", {}).get(BILINEAR)
    if scored is None:
        return []
    start, end = scored.get("prediction", (0, 0))
    text = running(" ".join(map(str, row.get("words", [])[start:end])))
    return [Answer(f"{CELL_NAMES[cell]}, bilinear probe", text, scored["em"] == 1, float(scored["f1_tokens"]))]


def _pieces(words: Mapping[int, str], row: Prediction, *, is_whole: bool) -> tuple[Piece, ...]:
    """The sentence as running text, in stretches of equal marks."""
    golds: Sequence[Sequence[int]] = row["golds"]
    start, end = row["prediction"]
    places = [i for i in range(max(words, default=-1) + 1) if i in words or i - 1 in words or i == 0]

    def marks(i: int) -> tuple[bool, bool, bool]:
        return any(a <= i < b for a, b in golds), start <= i < end, i == row.get("predicate_index")

    texts = dict(zip(places, word_pieces([words.get(i, GAP) for i in places]), strict=True))
    pieces: list[Piece] = []
    for kinds, group in groupby(places, key=marks):
        text = "".join(texts[i] for i in group)
        pieces.append(Piece(text.lstrip(" "), text.startswith(" ") and bool(pieces), *kinds))
    return tuple(pieces) if is_whole else (*pieces, Piece(GAP, True))


def running(text: object) -> str:
    """Words joined by spaces, as running text."""
    return "".join(word_pieces(str(text).split(" "))).strip()
