"""What is said about intervals: where they hold less than 95%, how seeds were pooled, what documents do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from emergence.measures import measured_coverage
from emergence.measures.measured_coverage import MEASURED, interval_notes, units_of
from emergence.measures.measured_coverage import measured_coverage as coverage_of


def notes(seeds: dict[str, int], **more: Any) -> list[str]:
    facts: dict[str, Any] = {"n_sentences": 200, "n_documents": 16, "cluster": "sentence", "widening": {}}
    return list(interval_notes(seeds, **{**facts, **more}))


def test_a_regime_is_the_nearest_that_is_no_easier() -> None:
    assert coverage_of(4, 100) == MEASURED[3, 30]
    assert coverage_of(9, 1000) == MEASURED[5, 200]
    assert math.isnan(coverage_of(1, 5))
    (note,) = notes({"this run": 1}, n_sentences=5)
    assert note == "1 seed (this run), 5 sentences: what the interval holds was not measured for so few"


def test_counts_are_three_and_unknown_documents_are_said() -> None:
    assert units_of(1184, 16) == "1,184 sentences, 16 documents"
    assert units_of(1, 1) == "1 sentence, 1 document"
    assert units_of(3, None) == "3 sentences, documents unknown"


def test_two_seeds_are_warned_about_unless_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    (note,) = notes({"full": 2, "frozen": 3})
    assert note.startswith("2 seeds (full), 200 sentences: measured coverage 0.")
    assert "of a nominal 95% interval; two tell" in note
    monkeypatch.setattr(measured_coverage, "MEASURED", {(2, 10): 0.9, (3, 10): 0.94})
    (pooled,) = notes({"full": 2}, pooled={"full": 3})  # three degrees of freedom, as four seeds have
    assert pooled.startswith("variance over seeds pooled") and pooled.endswith("full 3")
    assert notes({"full": 3}) == []


def test_a_regime_below_the_promise_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_coverage, "MEASURED", {(1, 10): 0.9, (1, 200): 0.94})
    (note,) = notes({"this run": 1}, n_sentences=12)
    assert note == "1 seed (this run), 12 sentences: measured coverage 0.90 of a nominal 95% interval"
    (by_document,) = notes({"this run": 1}, cluster="document")
    assert "16 documents: measured coverage 0.90" in by_document
    assert notes({"this run": 1}) == []


def test_documents_are_reported_and_warned_about_where_they_matter() -> None:
    (small,) = notes({"full": 1}, widening={"F1": 1.04})
    assert small == "by documents (16) the standard error is 1.04 times (F1) that by sentences"
    (large,) = notes({"full": 1}, widening={"score": 1.0, "F1": 1.4})
    assert "1.40 times (F1)" in large and large.endswith("(--cluster document)")
    (used,) = notes({"full": 5}, widening={"F1": 1.4}, cluster="document", n_documents=500)
    assert used.startswith("documents are resampled; ")
