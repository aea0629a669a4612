"""What the rows of ``predictions.jsonl`` may be. Whoever takes numbers out of them asks here first.

So ``verify-run``, ``compare`` and the tables refuse the same rows. Rows of earlier versions lack some keys, then in
every row. Standard library only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

#: Scores that the headline and every read-out have, and those that older rows lack.
REQUIRED_SCORES, OPTIONAL_SCORES = ("em", "f1_tokens", "log_prob", "expected_f1"), ("argument_selection", "brier")
_REQUIRED = ("id", "source", "sentence_id")
#: Parts of a row with scores by name: of the other read-outs, and of what needs no language model.
PARTS = ("readouts", "baselines")
#: A blind choice is between two arguments at least.
_MOST_CHANCE = 0.5

#: As it is parsed: objects within it are dicts.
Row = Mapping[str, Any]


def odd_row(rows: Sequence[Row]) -> str | None:
    """What is wrong with the first row that this program cannot have written, in one line; None if nothing is.

    Rows are looked at column by column, because many runs with thousands of them are read at a time. The shortest
    beginning with something wrong ends with the first odd row.
    """
    if next(_oddities(rows), None) is None:
        return None
    shortest = bisect_left(range(len(rows)), True, key=lambda n: next(_oddities(rows[:n]), None) is not None)
    place, problem = next(_oddities(rows[:shortest]))
    return f"{_shown(str(rows[place].get('id')), 80)}: {problem}"


def _oddities(rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Place of a row and what is wrong with it. Only the first may be asked for: what follows takes it for granted."""
    if not rows:
        return
    first = rows[0]
    if missing := _missing(first):
        yield 0, f"it has no {missing}"
    for place in _unlike(rows, first.keys()):
        missing, differing = _missing(rows[place]), min(rows[place].keys() ^ first.keys())
        yield place, f"it has no {missing}" if missing else f"not every row has {_shown(differing)}"
    for key, (fits, wanted) in _VALUES.items():
        values = [row[key] for row in rows] if key in first else []
        if not all(map(fits, values)):
            place = list(map(fits, values)).index(False)
            yield place, f"its {key} is {repr(values[place])[:60]}, where {wanted} belongs"
    if {"gold_texts", "golds"} <= first.keys():
        for place, row in enumerate(rows):
            if len(row["gold_texts"]) != len(row["golds"]):
                yield place, f"it has {len(row['golds'])} golds and {len(row['gold_texts'])} gold_texts"
    for part in PARTS:
        if part in first:
            yield from _odd_scores(part, [row[part] for row in rows])
    seen: set[str] = set()
    for place, row in enumerate(rows):
        if row["id"] in seen:
            yield place, "two rows have its id"
        seen.add(row["id"])


def _unlike(objects: Sequence[Row], keys: Set[str]) -> Iterator[int]:
    """Places of those that have other keys."""
    return (place for place, one in enumerate(objects) if one.keys() != keys)


def _shown(name: str, most: int = 40) -> str:
    """A name of a file's own in a message, on one line."""
    return repr(name)[1:-1][:most]


def _missing(row: Row) -> str | None:
    return next((key for key in (*_REQUIRED, *REQUIRED_SCORES) if key not in row), None)


def column(rows: Sequence[Row], score: str) -> list[Any]:
    """The score of every row or part of a row; None where it is null or missing.

    Raises:
        TypeError: One of them is no number.
    """
    values = [row.get(score) for row in rows]
    if odd := set(map(type, values)) - {float, int, type(None)}:
        raise TypeError(f"{score} of a question is a {min(kind.__name__ for kind in odd)}")
    return values


def _odd_scores(part: str, parts: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """As :func:`_oddities`, of one of :data:`PARTS` of every row."""
    first = parts[0]
    for place in _unlike(parts, first.keys()):
        yield place, f"not every row has the {part} of {_shown(min(parts[place].keys() ^ first.keys()))}"
    for name in first:
        named, of_name = _shown(name), [part_of_row[name] for part_of_row in parts]
        for place, scores in enumerate(of_name):
            if not isinstance(scores, dict):
                yield place, f"its {part} of {named} are {repr(scores)[:40]}, where scores belong"
        keys = of_name[0].keys()
        for place in _unlike(of_name, keys):
            yield place, f"not every row has a {_shown(min(of_name[place].keys() ^ keys))} of {named}"
        lacks = next((key for key in REQUIRED_SCORES if key not in keys), None) if part == "readouts" else None
        if lacks is not None:
            yield 0, f"it has no {lacks} of {named}"
        if "prediction" in keys:
            for place, scores in enumerate(of_name):
                if not _is_span(scores["prediction"]):
                    yield place, f"its prediction of {named} is {repr(scores['prediction'])[:40]}, no span of words"


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) is type(value[1]) is int


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
    **dict.fromkeys(PARTS, (lambda value: isinstance(value, dict), "an object")),
}
