"""What the rows of ``predictions.jsonl`` may be. Whoever takes numbers out of them asks here first.

So ``verify-run``, ``compare`` and the tables refuse the same rows. Rows of earlier versions lack some keys, then in
every row. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Scores that the headline and every read-out have, and those that older rows lack.
REQUIRED_SCORES, OPTIONAL_SCORES = ("em", "f1_tokens", "log_prob", "expected_f1"), ("argument_selection", "brier")
_REQUIRED = ("id", "source", "sentence_id")
#: Parts of a row with scores by name: of the other read-outs, and of what needs no language model.
PARTS = ("readouts", "baselines")
#: A blind choice is between two arguments at least.
_MOST_CHANCE = 0.5

Row = Mapping[str, Any]


def odd_row(rows: Sequence[Row]) -> str | None:
    """What is wrong with the first row that this program cannot have written, in one line; None if nothing is."""
    seen: set[str] = set()
    for row in rows:
        problem = _differing_keys(row, rows[0]) or _odd_value(row) or _odd_scores(row, rows[0])
        if problem is None and row["id"] in seen:
            problem = "two rows have its id"
        if problem:
            return f"{str(row.get('id'))[:80]}: {problem}"
        seen.add(row["id"])
    return None


def column(rows: Sequence[Row], score: str) -> list[Any]:
    """The score of every row or part of a row; None where it is null or missing.

    Raises:
        TypeError: One of them is no number.
    """
    values = [row.get(score) for row in rows]
    if odd := set(map(type, values)) - {float, int, type(None)}:
        raise TypeError(f"{score} of a question is a {min(kind.__name__ for kind in odd)}")
    return values


def _differing_keys(row: Row, first: Row) -> str | None:
    if missing := next((key for key in (*_REQUIRED, *REQUIRED_SCORES) if key not in row), None):
        return f"it has no {missing}"
    odd = min(row.keys() ^ first.keys(), default=None)
    return None if odd is None else f"not every row has {odd[:40]}"


def _odd_value(row: Row) -> str | None:
    for key, (fits, wanted) in _VALUES.items():
        if key in row and not fits(row[key]):
            return f"its {key} is {repr(row[key])[:60]}, where {wanted} belongs"
    if "gold_texts" in row and "golds" in row and len(row["gold_texts"]) != len(row["golds"]):
        return f"it has {len(row['golds'])} golds and {len(row['gold_texts'])} gold_texts"
    return None


def _odd_scores(row: Row, first: Row) -> str | None:
    for part in PARTS:
        if part not in row:
            continue
        if odd := min(row[part].keys() ^ first[part].keys(), default=None):
            return f"not every row has the {part} of {odd[:40]}"
        for name, scores in row[part].items():
            if not isinstance(scores, Mapping):
                return f"its {part} of {name[:40]} are {repr(scores)[:40]}, where scores belong"
            if odd := min(scores.keys() ^ first[part][name].keys(), default=None):
                return f"not every row has a {odd[:40]} of {name[:40]}"
            lacks = next((key for key in REQUIRED_SCORES if key not in scores), None) if part == "readouts" else None
            if lacks is not None:
                return f"it has no {lacks} of {name[:40]}"
            if "prediction" in scores and not _is_span(scores["prediction"]):
                return f"its prediction of {name[:40]} is {repr(scores['prediction'])[:40]}, no span of words"
    return None


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(place) is int for place in value)


def _are_golds(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(map(_is_span, value))
        and len({tuple(span) for span in value}) == len(value)
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(text, str) for text in value)


def _is_chance(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value <= _MOST_CHANCE)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


_text = (lambda value: isinstance(value, str), "text")
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_name, "a name"),
    "source": (_is_name, "a name"),
    "sentence_id": _text,
    "document_id": (lambda value: value is None or isinstance(value, str), "a name or null"),
    "words": (_are_texts, "a list of words"),
    "predicate_index": (lambda value: value is None or type(value) is int, "the place of a word or null"),
    "predicate": (lambda value: value is None or isinstance(value, str), "a word or null"),
    "question": (_is_name, "a question"),
    "role": _text,
    "asked_role": (_is_name, "a role"),
    "passive": (lambda value: value is None or isinstance(value, bool), "true, false or null"),
    "golds": (_are_golds, "a list of spans of words, each once,"),
    "gold_texts": (_are_texts, "a list of texts"),
    "prediction": (_is_span, "a span of words"),
    "prediction_text": _text,
    "argument_chance": (_is_chance, f"null or a number up to {_MOST_CHANCE}"),
    **dict.fromkeys(PARTS, (lambda value: isinstance(value, Mapping), "an object")),
}
