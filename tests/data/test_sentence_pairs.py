"""Pairs from files as they are, and role-crossed pairs that words and bigrams cannot tell apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from emergence.data import hub
from emergence.data.microworld.generate import owner_of
from emergence.data.microworld.lexicon import ANIMALS, PEOPLE, THINGS
from emergence.data.role_pairs import baselines, refuse_if_words_suffice, role_pairs
from emergence.data.sentence_pairs import BLIMP, ROLES, PairSet, load_pairs, read_pairs
from emergence.errors import DataError


@pytest.fixture(scope="module")
def roles() -> PairSet:
    return role_pairs(60)


def test_the_same_words_stand_in_both_sentences_and_the_set_is_balanced(roles: PairSet) -> None:
    assert roles.name == ROLES and len(roles.pairs) == 120
    assert Counter(pair.kind for pair in roles.pairs) == {"active": 60, "passive": 60}
    assert set(Counter(pair.item for pair in roles.pairs).values()) == {2}
    for pair in roles.pairs:
        assert pair.good != pair.bad and len(pair.good) == len(pair.bad)
        assert sorted(pair.good.lower().split(".")[0].split()) == sorted(pair.bad.lower().split(".")[0].split())
        assert owner_of(pair.good) == "test"


def test_the_doer_of_a_good_sentence_lives_and_that_of_a_bad_one_does_not(roles: PairSet) -> None:
    for pair in roles.pairs:
        for sentence, doers in ((pair.good, {*PEOPLE, *ANIMALS}), (pair.bad, set(THINGS))):
            words = sentence.rstrip(".").lower().split()
            if pair.kind == "passive":
                doer = words[-1]
            else:  # the last word before the auxiliary
                doer = words[next(i for i, word in enumerate(words) if word in ("was", "had", "will")) - 1]
            assert doer in doers, sentence


def test_unigrams_and_bigrams_are_at_one_half_and_a_set_that_they_solve_is_refused(roles: PairSet) -> None:
    assert roles.facts["baselines"] == {"unigram": 0.5, "bigram": 0.5}
    actives = PairSet("actives", tuple(pair for pair in roles.pairs if pair.kind == "active"))
    assert baselines(actives)["bigram"] > 0.7
    with pytest.raises(DataError, match="a bigram model is right in"):
        refuse_if_words_suffice(actives)


def test_the_same_seed_gives_the_same_pairs_and_a_larger_set_begins_with_them(roles: PairSet) -> None:
    assert role_pairs(20).pairs == roles.pairs[:40]
    assert role_pairs(20, seed=1).pairs != roles.pairs[:40]
    assert role_pairs(20).fingerprint == role_pairs(20).fingerprint != roles.fingerprint


# Files ------------------------------------------------------------------------------------------------


def blimp(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ROW = {"sentence_good": "Aaron breaks the glass.", "sentence_bad": "Aaron appeared the glass.", "UID": "causative"}


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n" + blimp(ROW, {**ROW, "sentence_bad": "Naïve."}).rstrip("\n"))
    (tmp_path / "b.jsonl").write_text(blimp({key: ROW[key] for key in ("sentence_good", "sentence_bad")}))
    (tmp_path / "README.txt").write_text("no pairs")
    found = load_pairs(str(tmp_path), tmp_path)
    assert [pair.kind for pair in found.pairs] == ["causative", "causative", "b"]
    assert len({pair.item for pair in found.pairs}) == 3 and found.facts["files"] == ["a.jsonl", "b.jsonl"]
    assert found.pairs[1].bad == "Naïve."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no pairs of sentences"),
        ("{}\n", "a.jsonl:1: needs sentence_good and sentence_bad"),
        (blimp(ROW, {**ROW, "sentence_bad": 3}), "a.jsonl:2"),
        (blimp({**ROW, "sentence_bad": ROW["sentence_good"]}), "the two sentences are the same"),
        ("not json\n", "a.jsonl:1"),
    ],
)
def test_malformed_files_are_named_with_the_line(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=says):
        read_pairs(tmp_path / "a.jsonl")


def test_what_is_nowhere_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"give a file, a folder, {ROLES} or {BLIMP}"):
        load_pairs(str(tmp_path / "none.jsonl"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pairs"):
        read_pairs(tmp_path / "empty")


class Table:
    """The part of ``datasets.Dataset`` that the route uses."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = list(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Any:
        return iter(self.rows)

    def select_columns(self, names: list[str]) -> Table:
        return Table([{name: row[name] for name in names} for row in self.rows])


def test_the_paradigms_of_blimp_come_from_the_hub(tmp_path: Path) -> None:
    asked = []

    def loader(repository: str, config: str, **_: object) -> dict[str, Table]:
        asked.append((repository, config))
        row = {"sentence_good": "A b.", "sentence_bad": "B a.", "UID": config, "pairID": "0", "field": "syntax"}
        return {"train": Table([row] * 1000)}

    folder, note = hub.fetch(BLIMP, tmp_path, loader=loader)
    assert len(asked) == 9 and {repository for repository, _ in asked} == {"nyu-mll/blimp"}
    assert note["rows"]["causative"] == 1000 and len(read_pairs(folder).pairs) == 9000
    assert len(load_pairs(BLIMP, tmp_path).pairs) == 9000  # from the cache


def test_a_blimp_of_another_size_is_refused(tmp_path: Path) -> None:
    def loader(repository: str, config: str, **_: object) -> dict[str, Table]:
        row = {"sentence_good": "A b.", "sentence_bad": "B a.", "UID": config, "pairID": "0"}
        return {"train": Table([row])}

    only_hub = hub.HubData(hub.HUB_DATA[BLIMP].routes[:1], "--data", "BLiMP .jsonl files", f"--data {ROLES}")
    with pytest.raises(hub.HubError, match=r"1 rows, not 1000.*or use --data microworld-roles"):
        hub.fetch(BLIMP, tmp_path, loader=loader, data={BLIMP: only_hub})
