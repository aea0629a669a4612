"""The scaling law of a table: what it says, and tables that have none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.errors import DataError
from emergence.findings.law_table import read_law_table
from emergence.findings.scaling import analyse_scaling, scaling_data
from emergence.measures.scaling_law import ScalingData, ScalingFit, fit_scaling
from tests.command_lines import typed
from tests.findings.test_laws import written

LAW = ScalingFit(1.8172, 482.01, 2085.43, 0.3478, 0.3658, 0.0, 1.0)
Rows = list[dict[str, Any]]


def grid(sigma: float = 0.002) -> Rows:
    rng = np.random.default_rng(0)
    return [
        {"params": n, "tokens": d, "loss": float(LAW.predict(n, d)) * float(np.exp(sigma * rng.standard_normal()))}
        for n in np.geomspace(1e6, 1e9, 7).round()
        for d in np.geomspace(1e8, 1e10, 4).round()
    ]


def test_law_in_words_and_json(tmp_path: Path) -> None:
    rows = [row | {"params_total": row["params"] + 5e6} for row in grid()]
    path = written(tmp_path / "runs.csv", rows)
    analysis = analyse_scaling(path, compute=(1e18, 1e21), n_draws=20)
    text = analysis.text()
    assert "28 runs, 7 sizes" in text
    assert "N counts non-embedding parameters: L = 1.8" in text and "N counts all parameters" in text
    assert "times as large, are off by 0." in text
    assert "times the largest N trained, held-out errors were up to" in text
    stored = json.loads(json.dumps(analysis.to_dict(), allow_nan=False))
    lo, hi = stored["laws"][0]["intervals"]["alpha"]
    assert lo < stored["laws"][0]["fit"]["alpha"] < hi
    assert stored["laws"][0]["fit"]["alpha"] == pytest.approx(0.3478, abs=0.02)
    assert [each["compute"] for each in stored["laws"][0]["optima"]] == [1e18, 1e21]
    assert stored["table"] == "runs.csv" and "path" not in stored


def test_repeated_tokens_are_discounted(tmp_path: Path) -> None:
    rows = [row | {"unique_tokens": min(row["tokens"], 1e9)} for row in grid(0.0)]
    data, repeats = scaling_data(read_law_table(written(tmp_path / "t.csv", rows)))
    assert repeats == 14
    assert data.tokens.max() == pytest.approx(1e9 * (1 + 15.4 * (1 - np.exp(-9 / 15.4))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:16], "4 sizes (params): a scaling law takes at least 5"),
        (lambda rows: rows[::4][:5] + rows[1:1], "5 runs"),
        (lambda rows: [row | {"tokens": 20 * row["params"]} for row in rows[::4]], "would separate them best"),
        (lambda rows: [row | {"loss": -row["loss"]} for row in rows], ":2: loss is"),
        (lambda rows: [*rows, rows[3]], "the same run as line 5"),
        (
            lambda rows: [{"N": row["params"], "tokens": row["tokens"], "loss": row["loss"]} for row in rows],
            "no column",
        ),
        (lambda rows: [row | {"loss": "inf"} for row in rows], ":2: loss is inf"),
        (lambda rows: [rows[0] | {"params": "1_000"}, *rows[1:]], ":2: params is no number: '1_000'"),
        (lambda rows: [rows[0] | {"tokens": "\u0661\u0660"}, *rows[1:]], ":2: tokens is no number"),
        (
            lambda rows: [*rows[:2], rows[2] | {"tokens": 1e300}, *rows[3:]],
            ":4: tokens is 1e+300: above 0, and at most",
        ),
        (lambda rows: [row | {"unit": "furlong"} for row in rows], "unit 'furlong'"),
        (lambda rows: [row | {"tokenizer": str(row["tokens"])} for row in rows], "4 tokenizers"),
    ],
)
def test_bad_input_is_one_line(change: Any, words: str, tmp_path: Path) -> None:
    rows = grid(0.0)
    if words == "5 runs":
        rows = [row | {"tokens": row["tokens"] * (1 + i)} for i, row in enumerate(rows)]
    path = written(tmp_path / "t.csv", change(rows))
    with pytest.raises(DataError) as caught:
        analyse_scaling(path, n_draws=20)
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_one_data_size_has_no_optimum(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", grid(0.001)[::4])
    assert "D^" not in analyse_scaling(path, n_draws=20).text()
    ended = typed("emergence", "law", "scaling", str(path), "--compute", "1e18")
    assert ended.code == 2 and "all runs have one D" in ended.err and ended.err.count("\n") == 1


def test_published_runs() -> None:
    """The 240 runs of Besiroglu et al. 2024, where ``EPOCH_CHINCHILLA`` names their CSV (no licence, so not here)."""
    file = Path(os.environ.get("EPOCH_CHINCHILLA", "svg_extracted_data.csv"))
    if not file.is_file():
        pytest.skip("EPOCH_CHINCHILLA names no file")
    table = read_law_table(file)
    params, flop, loss = (table.numbers(name) for name in ("Model Size", "Training FLOP", "loss"))
    keep = loss < np.sort(loss)[-5]
    fit = fit_scaling(ScalingData(params[keep], (flop / (6 * params))[keep], loss[keep]))
    assert keep.sum() == 240
    assert fit.objective == pytest.approx(1.01827e-3, rel=1e-5)
    assert (fit.alpha, fit.beta, fit.e) == pytest.approx((0.3473, 0.3672, 1.8172), abs=1e-4)
