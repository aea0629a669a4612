"""Rows of predictions that this program cannot have written are refused, and named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from emergence.experiment.prediction_rows import odd_row

SCORES = {"em": 1.0, "f1_tokens": 1.0, "log_prob": -0.5, "expected_f1": 0.5}
ROW: dict[str, Any] = {
    "id": "q", "source": "bank", "sentence_id": "s", "document_id": None, "words": ["He", "fell"], "predicate_index": 1,
    "predicate": "fell", "question": "Who fell?", "role": "A1", "passive": False, "golds": [[0, 0]],
    "gold_texts": ["He"], "prediction": [0, 0], "prediction_text": "He", "argument_chance": 0.5, **SCORES,
    "readouts": {"bilinear": {**SCORES, "prediction": [0, 1]}}, "baselines": {"wh_rule": {"em": 0.0}},
}  # fmt: skip
#: Where something else stands than belongs, and what is said of it. ``None`` as value: it is missing.
ODD: dict[str, tuple[tuple[str, ...], Any]] = {
    "it has no em": (("em",), None),
    "not every row has role": (("role",), None),
    "not every row has more": (("more",), 1),
    "not every row has a key\\nof two lines": (("a key\nof two lines",), 1),
    "not every row has ": (("",), 1),
    "its id is '', where a name": (("id",), ""),
    "its source is 3, where a name": (("source",), 3),
    "its words is [], where a list of words": (("words",), []),
    "its words is ['a', 1]": (("words",), ["a", 1]),
    "its predicate_index is True": (("predicate_index",), True),
    "its passive is 1": (("passive",), 1),
    "its golds is [[0, 1], [0, 1]]": (("golds",), [[0, 1], [0, 1]]),
    "its golds is [[0]]": (("golds",), [[0]]),
    "its golds is 7": (("golds",), 7),
    "it has 2 golds and 1 gold_texts": (("golds",), [[0, 0], [1, 1]]),
    "its prediction is [0, 1.0], where a span": (("prediction",), [0, 1.0]),
    "its argument_chance is 0.9": (("argument_chance",), 0.9),
    "its readouts is [], where an object": (("readouts",), []),
    "not every row has the readouts of linear": (("readouts", "linear"), SCORES),
    "not every row has the baselines of wh_rule": (("baselines", "wh_rule"), None),
    "its baselines of wh_rule are 5, where scores": (("baselines", "wh_rule"), 5),
    "not every row has a em of bilinear": (("readouts", "bilinear", "em"), None),
    "its prediction of bilinear is [0], no span": (("readouts", "bilinear", "prediction"), [0]),
}


def rows() -> list[dict[str, Any]]:
    return [copy.deepcopy(ROW) | {"id": f"q{place}"} for place in range(4)]


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("said", ODD)
def test_an_odd_row_is_named(said: str, place: int) -> None:
    (*path, key), value = ODD[said]
    found = rows()
    at = found[place]
    for name in path:
        at = at[name]
    if value is None:
        del at[key]
    else:
        at[key] = value
    told = odd_row(found)
    assert told is not None
    if place == 0 and said.startswith("not every row"):  # which of them is odd is not known
        assert told.startswith(("q1: not every row", "q0: it has no em"))
    else:
        assert said in told and told.startswith(f"q{place}: " if key != "id" else ": ")


def test_what_all_rows_lack_or_two_share_is_odd_too() -> None:
    assert odd_row(rows()) is None and odd_row([]) is None
    without = rows()
    for row in without:
        del row["readouts"]["bilinear"]["log_prob"]
    assert odd_row(without) == "q0: it has no log_prob of bilinear"
    for row in without:
        del row["source"]
    assert odd_row(without) == "q0: it has no source"
    assert odd_row([*rows(), rows()[1]]) == "q1: two rows have its id"


def test_the_first_odd_row_is_named_whatever_is_wrong_with_later_ones() -> None:
    found = rows()
    found[1]["prediction"], found[2]["source"] = 7, 3
    del found[3]["prediction"]
    assert str(odd_row(found)).startswith("q1: its prediction is 7")
    found = [*rows(), rows()[1], rows()[2]]
    found[5]["em"] = found[5]["id"] = ""
    assert odd_row(found) == "q1: two rows have its id"


def test_rows_of_earlier_versions_lack_keys_and_scores() -> None:
    earlier = [{key: row[key] for key in ("id", "source", "sentence_id", *SCORES)} for row in rows()]
    assert odd_row(earlier) is None
