"""The law of a table: what it says, and tables that have none, each refused in one line."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from emergence.errors import DataError, UsageError
from emergence.findings.law_sampler import sample_posterior
from emergence.findings.law_table import read_law_table
from emergence.findings.laws import _parts, analyse_law, interval_words, law_data
from emergence.measures.emergence_law import LawData
from tests.command_lines import typed

LOSSES = (2.5, 2.35, 2.2, 2.1, 2.0, 1.92, 1.85, 1.78)
AMOUNTS = (50, 100, 200, 500, 1000, 6000)
Rows = list[dict[str, Any]]


def sweep(sigma: float = 0.01, draws: int = 1, fewshot: bool = True, losses=LOSSES) -> Rows:
    rng = np.random.default_rng(1)
    rows = []
    for amount in ((5,) if fewshot else ()) + AMOUNTS:
        for subset in range(1 if amount == 5 else draws):
            for loss in losses:
                past = 0.05 * math.log(amount) ** 1.2 + 1.60 - loss
                score = 0.9 * max(past, 0) + 0.25 + sigma * rng.standard_normal()
                rows.append(
                    {"loss": loss, "amount": amount, "score": score, "fewshot": int(amount == 5), "subset": subset}
                )
    return rows


def written(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_law_in_words_and_json(tmp_path: Path) -> None:
    path = written(tmp_path / "sweep.csv", sweep(draws=2))
    analysis = analyse_law(path, n_draws=39, compare=True)
    text = analysis.text()
    assert "96 finetuned runs, 8 few-shot; 8 checkpoints x 6 amounts" in text
    assert text.index("own elbow") < text.index("law: E(D)") < text.index("emergence point at 5 shots")
    stored = analysis.to_dict()
    json.dumps(stored, allow_nan=False)
    assert stored["law"]["lo"] < stored["law"]["emergence_point"] < stored["law"]["hi"]
    assert stored["law"]["emergence_point"] == pytest.approx(1.6885, abs=0.06)
    assert stored["quantiles"]["0.05"] == pytest.approx(stored["law"]["lo"])
    assert stored["share_emerged_by_best_loss"] < 0.1
    assert stored["flags"] == []
    assert "bootstrap of draws within amounts" in stored["compared"]


def test_json_table_and_other_delimiters_say_the_same(tmp_path: Path) -> None:
    rows = sweep(0.0)
    tables = [written(tmp_path / "a.csv", rows), tmp_path / "b.json", tmp_path / "c.tsv", tmp_path / "d.json"]
    tables[1].write_text(json.dumps(rows))
    tables[2].write_text(tables[0].read_text().replace(",", "\t"), encoding="utf-8-sig")
    tables[3].write_text(json.dumps({"rows": rows}))
    for path in tables:
        assert law_data(read_law_table(path)).score == pytest.approx([row["score"] for row in rows])


def test_without_few_shot_rows_it_is_minimum_supervision(tmp_path: Path) -> None:
    analysis = analyse_law(written(tmp_path / "t.csv", sweep(fewshot=False)), form="nofewshot", n_draws=19)
    assert analysis.target == 10
    assert "at 10 questions (minimum supervision)" in analysis.text()
    assert "one_draw" in analysis.flags


def test_free_needs_one_amount_and_has_no_law(tmp_path: Path) -> None:
    rows = [row for row in sweep() if row["amount"] == 6000]
    rows += [row | {"loss": row["loss"] + 0.03, "score": row["score"] - 0.027} for row in rows]
    analysis = analyse_law(written(tmp_path / "t.csv", rows), form="free")
    assert analysis.law is None
    assert "law:" not in analysis.text()
    assert analysis.free.elbows[0] == pytest.approx(2.27, abs=0.05)


def test_logit_link(tmp_path: Path) -> None:
    rows = sweep(0.0)
    for row in rows:
        row["score"] = float(expit(6 * row["score"] - 3))
    analysis = analyse_law(written(tmp_path / "t.csv", rows), link="logit", n_draws=19)
    assert analysis.law is not None
    assert analysis.law.elbow == pytest.approx(1.6885073, abs=1e-6)
    assert analysis.law.slope == pytest.approx(5.4, abs=1e-5)


def test_too_far_is_flagged(tmp_path: Path) -> None:
    analysis = analyse_law(written(tmp_path / "t.csv", sweep(0.02, losses=LOSSES[:5])), n_draws=39)
    assert "too_far" in analysis.flags
    assert analysis.best_loss == 2.0


def test_a_law_that_does_not_fit_is_flagged(tmp_path: Path) -> None:
    rows = sweep()
    for row in rows:  # one amount's elbow lies 0.2 too high
        if row["amount"] == 200:
            row["score"] += 0.9 * (max(2.175 - row["loss"], 0) - max(1.975 - row["loss"], 0))
    crooked, straight = (analyse_law(written(tmp_path / "t.csv", each), n_draws=19).flags for each in (rows, sweep()))
    assert "lack_of_fit" in crooked and "lack_of_fit" not in straight


@pytest.mark.slow
def test_ablations_name_what_they_cannot_do(tmp_path: Path) -> None:
    rows = [row for row in sweep(draws=2) if row["amount"] not in (200, 1000)]
    analysis = analyse_law(written(tmp_path / "t.csv", rows), n_draws=19, ablate=True)
    found = {part.name: part for part in analysis.ablations}
    assert found["without the 1 smallest amount(s)"].lo < 1.7
    assert "at least 3" in found["without the 2 largest amount(s)"].reason
    assert found["draw 1 alone"].n == found["draw 2 alone"].n == 8 + 4 * 8
    assert found["last 3 checkpoints"].n == 3 + 4 * 2 * 3


def test_posterior_as_published(tmp_path: Path) -> None:
    pytest.importorskip("emcee")
    analysis = analyse_law(written(tmp_path / "t.csv", sweep(fewshot=True)), n_draws=19)
    assert analysis.law is not None
    posterior = sample_posterior(analysis.law, n_steps=1500)
    assert [posterior.quantiles[q] for q in (0.05, 0.5, 0.95)] == pytest.approx([1.677, 1.717, 1.751], abs=0.012)
    assert posterior.r_hat < 1.05


def test_open_ends_are_said() -> None:
    assert interval_words(-math.inf, 1.7) == "unbounded below, at most 1.7000"
    assert interval_words(1.7, math.inf) == "unbounded above, at least 1.7000"
    assert interval_words(-math.inf, math.inf) == "unbounded on both sides"


def _past(rows: Rows) -> Rows:
    return [row | {"score": 0.9 * (2.9 - row["loss"]) / 2 + 0.01 * math.log(row["amount"])} for row in rows]


def _with(rows: Rows, **cells: Any) -> Rows:
    """With other cells in the first row."""
    return [rows[0] | cells, *rows[1:]]


def _no_elbow_seen(rows: Rows) -> Rows:
    """The least amount never emerges, and all others have everywhere: their elbows are beyond all losses."""
    noise = np.random.default_rng(4).normal(0, 0.01, len(rows))
    return [
        row | {"score": (0.2 if row["amount"] == 50 else 0.3 + 0.2 * (2.6 - row["loss"])) + e}
        for row, e in zip([r for r in rows if not r["fewshot"]], noise, strict=False)
    ]


BAD: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "three points": (lambda rows: rows[8:11], "3 finetuned runs"),
    "flat": (lambda rows: [row | {"score": 0.3} for row in rows], "scores are flat"),
    "flat noise": (
        lambda rows: [row | {"score": 0.3 + 0.01 * math.sin(7.3 * i * i)} for i, row in enumerate(rows)],
        "scores are flat",
    ),
    "all past emergence": (_past, "before emergence"),
    "one amount": (lambda rows: [row for row in rows if row["amount"] in (5, 6000)], "1 finetuning amount"),
    "no elbow in range": (_no_elbow_seen, "of 6 amounts have an elbow between the losses trained"),
    "not a number": (lambda rows: [*rows[:3], rows[3] | {"score": "nan"}, *rows[4:]], ":5: score is nan"),
    "a word": (lambda rows: [*rows[:3], rows[3] | {"loss": "low"}, *rows[4:]], ":5: loss is no number: 'low'"),
    "empty": (lambda rows: [*rows[:3], rows[3] | {"amount": ""}, *rows[4:]], ":5: amount is no number"),
    "wrong way": (lambda rows: [row | {"loss": 5 - row["loss"]} for row in rows], "scores rise with the loss"),
    "percent": (lambda rows: [row | {"score": 100 * row["score"]} for row in rows], "at most 1"),
    "twice": (lambda rows: [*rows, rows[7]], "the same run as line 9"),
    "two scores of one run": (lambda rows: [*rows, rows[7] | {"score": 0.9}], "the same run as line 9"),
    "a column missing": (
        lambda rows: [{"lost" if k == "loss" else k: v for k, v in row.items()} for row in rows],
        "no column loss: did you mean lost?",
    ),
    "two tokenizers": (
        lambda rows: [row | {"tokenizer": "gpt2" if row["loss"] > 2 else "llama"} for row in rows],
        "2 tokenizers",
    ),
    "two units": (lambda rows: [row | {"unit": "nats" if row["loss"] > 2 else "bits"} for row in rows], "one unit"),
    "two kinds of shots": (lambda rows: [rows[0] | {"amount": 2}, *rows[1:]], "few-shot rows of 2, 5 shots"),
    "half a question": (lambda rows: [rows[0], rows[1], *_with(rows[2:], amount=2.5, fewshot=0)], ":4: amount 2.5"),
    "half a shot": (lambda rows: _with(rows, amount=2.5), ":2: amount 2.5: a count of shots"),
    "more questions than are": (lambda rows: [*rows[:-1], *_with(rows[-1:], amount=1e300)], "amount 1e+300"),
    "separators": (lambda rows: _with(rows, loss="1_000"), ":2: loss is no number: '1_000'"),
    "a decimal comma": (lambda rows: _with(rows, loss="2,31"), ":2: loss is no number: '2,31': write 2.31"),
    "thousands": (lambda rows: [*rows[:-1], rows[-1] | {"amount": "6,000"}], "no separators of thousands"),
    "other digits": (lambda rows: _with(rows, loss="\u0662.\u0665"), ":2: loss is no number"),
    "perplexity": (lambda rows: _with(rows, loss=12_000), "no perplexity"),
    "subset below 0": (lambda rows: _with(rows, subset=-1), ":2: subset -1: 0, 1, 2"),
    "half a subset": (lambda rows: _with(rows, subset=0.5), ":2: subset 0.5"),
    "unknown unit": (lambda rows: [row | {"unit": "furlong"} for row in rows], "unit 'furlong': choose from nats"),
    "se in percent": (lambda rows: [row | {"se": 2.5} for row in rows], "se 2.5"),
    "as many shots as questions": (
        lambda rows: [row | {"fewshot": int(row["amount"] == 6000)} for row in rows if row["amount"] != 5],
        ":42: few-shot rows of 6000 shots: 2 or more, and fewer than the largest amount finetuned, 1000",
    ),
    "one shot": (
        lambda rows: [row | {"amount": max(row["amount"] - 4, 1)} for row in rows],
        "few-shot rows of 1 shots",
    ),
    "few questions": (
        lambda rows: [row | {"amount": AMOUNTS.index(row["amount"]) + 3} for row in rows if row["amount"] != 5],
        ":42: D_0, by default 10 questions, has to be fewer than the largest amount finetuned, 8",
    ),
    "no loss": (lambda rows: [row | {"loss": -row["loss"]} for row in rows], "above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, tmp_path: Path) -> None:
    change, words = BAD[case]
    path = written(tmp_path / "t.csv", change(sweep()))
    with pytest.raises(DataError) as caught:
        analyse_law(path, n_draws=19)
    message = str(caught.value)
    assert words in message and "\n" not in message and message.startswith(str(path))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("column", "cell"),
    [("checkpoint", [1]), ("checkpoint", {"a": 1}), ("size", True), ("subset", [0]), ("loss", [2]), ("score", {}),
     ("amount", True), ("loss", 10**18), ("fewshot", [1]), ("unit", ["nats"])],
)  # fmt: skip
def test_a_cell_of_json_that_is_no_cell(column: str, cell: Any, tmp_path: Path) -> None:
    rows = [row | {"checkpoint": f"at {row['loss']}", "size": "tiny"} for row in sweep()]
    (tmp_path / "t.json").write_text(json.dumps(_with(rows, **{column: cell})))
    ended = typed("emergence", "law", "fit", str(tmp_path / "t.json"), "--draws", "19")
    assert ended.code == 2 and f":1: {column}" in ended.err and ended.err.count("\n") == 1, ended


def test_the_table_in_the_docs_has_the_emergence_point_that_they_tell() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    analysis = analyse_law(docs / "examples" / "made_up_law.csv")
    told = re.search(r"emergence point of ([0-9.]+):", (docs / "laws.md").read_text())
    profile = analysis.profile
    assert told and profile is not None and profile.lo < float(told[1]) < profile.hi


def test_column_names_may_be_capitals(tmp_path: Path) -> None:
    rows = [{key.title(): value for key, value in row.items()} for row in sweep()]
    (tmp_path / "t.json").write_text(json.dumps([{f" {key.upper()}": v for key, v in row.items()} for row in rows]))
    for path in (written(tmp_path / "t.csv", rows), tmp_path / "t.json"):
        assert len(law_data(read_law_table(path))) == len(rows)


def test_bytes_per_token_of_two_tokenizers_may_share_an_axis(tmp_path: Path) -> None:
    rows = [row | {"tokenizer": "ab"[i % 2], "unit": "bits_per_byte"} for i, row in enumerate(sweep())]
    assert len(law_data(read_law_table(written(tmp_path / "t.csv", rows)))) == len(rows)


def test_names_that_are_one_and_columns_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(json.dumps([row | {"Loss ": 3.0} for row in sweep()]))
    with pytest.raises(DataError, match="two columns have one name"):
        read_law_table(tmp_path / "two.json")
    (tmp_path / "none.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column loss: loss, amount, score are needed, and there are a, b"):
        analyse_law(tmp_path / "none.csv")


def test_the_seed_is_no_negative_number(tmp_path: Path) -> None:
    ended = typed("emergence", "law", "fit", str(written(tmp_path / "t.csv", sweep())), "--seed", "-1")
    assert ended.code == 2 and "--seed" in ended.err and ended.err.count("\n") == 1


def test_a_target_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--d0 6000"):
        analyse_law(written(tmp_path / "t.csv", sweep()), target=6000)


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "no rows"), ("loss,amount,score\n", "no rows"), ("[1, 2]", "no table"), ("a,a\n1,2\n", "one name"),
     ("loss,amount,score\n1,2,3,4\n", "more cells"), ("loss,amount,score\n1,2,.3\n1,2\n", ":3: 2 of 3 cells"),
     ('{"rows": [', "not JSON")],
)  # fmt: skip
def test_no_table(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(content)
    with pytest.raises(DataError, match=words):
        read_law_table(tmp_path / "t")
    assert "no finished run" in typed("emergence", "law", "fit", str(tmp_path)).err
    with pytest.raises(DataError, match="no such file"):
        read_law_table(tmp_path / "gone")


def test_command(tmp_path: Path) -> None:
    ended = typed("emergence", "law", "fit", str(written(tmp_path / "sweep.csv", sweep())), "--draws", "19", "--json")
    assert ended.code == 0 and json.loads(ended.out)["law"]["lo"] > 1


def test_an_amount_of_one_draw_is_in_every_draws_part() -> None:
    """All questions can be drawn but once, and few-shot rows may have as many shots as runs have questions."""
    losses = [2.5, 2.2, 1.9]
    runs = [(loss, a, k) for a in (5, 50, 900) for k in ((1, 2) if a < 900 else (0,)) for loss in losses]
    loss, amount, draw = (np.array(values) for values in zip(*runs, strict=True))
    few = np.zeros(len(loss) + 3, dtype=bool)
    few[-3:] = True
    data = LawData.of(
        np.append(loss, losses), np.append(amount, [5] * 3), np.linspace(0, 1, len(few)), fewshot=few,
        draw=np.append(draw, [0] * 3),
    )  # fmt: skip
    parts = {name: keep for name, keep in _parts(data) if "alone" in name}
    assert list(parts) == ["draw 1 alone", "draw 2 alone"]
    for k, keep in enumerate(parts.values(), start=1):
        assert keep.sum() == 3 + 3 + 3 + 3 and set(np.append(draw, [0] * 3)[keep & ~few]) == {k, 0}
