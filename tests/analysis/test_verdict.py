"""The verdict follows its rule on planted results, and says what it cannot know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emergence.analysis.comparable import ComparableSet, group_results
from emergence.analysis.results import collect_results
from emergence.analysis.set_scores import score_set
from emergence.analysis.verdict import AT_THE_TOKEN, NOT_ROUTED, NOT_THERE, UNDETERMINED, Verdict, verdict_of
from emergence.measures.bootstrap import Estimate
from tests.analysis.fake_runs import write_guide_file, write_run

#: Cell -> (linear, bilinear) F1; full finetuning reaches 0.7.
LOW = (0.22, 0.20)


def planted(
    root: Path, linear: tuple[float, float], bilinear: tuple[float, float] | None, full: float | None = 0.7
) -> ComparableSet:
    """A set of runs with F1 on the pretrained and on the random trunk for each family."""
    if full is not None:
        write_run(root, "full", full)
    for k, cell in enumerate(("frozen", "random_frozen")):
        write_run(root, cell, linear[k], bilinear=bilinear[k] if bilinear else None)
    return group_results(collect_results(root)).sets[0]


def measured(s: ComparableSet, selectivity: tuple[float, float] | None, compression: dict[str, float]) -> ComparableSet:
    """The set with the bilinear probe's validity: the interval of its selectivity, and compression by cell."""
    cells = {}
    for cell, items in s.cells.items():
        if cell in compression:
            lo, hi = selectivity or (0.0, 0.0)
            estimate = Estimate((lo + hi) / 2, lo, hi, "bca", 120, 40, se=(hi - lo) / 4).to_dict()
            code = {"uniform_bits": 1000.0, "online_bits": 1000.0 / compression[cell]}
            found: dict[str, Any] = {"selectivity": estimate if selectivity else None, "mdl": code}
            items = tuple(
                replace(
                    i, result=replace(i.result, probes={**(i.result.probes or {}), "validity": {"bilinear": found}})
                )
                for i in items
            )
        cells[cell] = items
    return replace(s, cells=cells)


def judged(s: ComparableSet) -> Verdict:
    return verdict_of(s, score_set(s, n_boot=300))


BOTH = {"frozen": 3.0, "random_frozen": 1.5}


def test_readable_at_the_token(tmp_path: Path) -> None:
    verdict = judged(planted(tmp_path, (0.62, 0.2), (0.63, 0.3)))
    assert (verdict.headline, verdict.where) == ("strong", AT_THE_TOKEN)
    assert [f.family for f in verdict.families] == ["linear", "bilinear"]
    assert verdict.families[0].reads is True and "0.620 [" in " ".join(verdict.sentences)


def test_there_but_not_routed(tmp_path: Path) -> None:
    s = planted(tmp_path, LOW, (0.6, 0.3))
    verdict = judged(measured(s, (0.2, 0.3), BOTH))
    assert (verdict.headline, verdict.where) == ("none", NOT_ROUTED)
    text = " ".join(verdict.sentences)
    assert "selectivity 0.250 [0.200, 0.300]" in text and "compression 3.00 (random trunk 1.50)" in text
    assert judged(measured(s, None, BOTH)).where == NOT_ROUTED  # no predicates, no control: the code suffices


@pytest.mark.parametrize(
    ("selectivity", "compression", "why"),
    [
        ((-0.05, 0.1), BOTH, "arbitrary answers"),
        ((0.2, 0.3), {"frozen": 1.4, "random_frozen": 1.5}, "no shorter than on a random trunk"),
        (None, {"frozen": 3.0}, "one trunk alone"),
    ],
)
def test_a_bilinear_probe_nobody_vouches_for_decides_nothing(
    tmp_path: Path, selectivity: tuple[float, float] | None, compression: dict[str, float], why: str
) -> None:
    verdict = judged(measured(planted(tmp_path, LOW, (0.6, 0.3)), selectivity, compression))
    assert verdict.where == UNDETERMINED and why in " ".join(verdict.sentences)


def test_results_from_before_validity_load_and_say_so(tmp_path: Path) -> None:
    verdict = judged(planted(tmp_path, LOW, (0.6, 0.3)))
    assert verdict.where == UNDETERMINED and "were not measured" in " ".join(verdict.sentences)
    assert all("no_validity" in f.flags and not f.selectivity and not f.compression for f in verdict.families)


def test_each_family_is_held_against_its_own_floor(tmp_path: Path) -> None:
    """A bilinear probe far above the linear one, on the random trunk as well: the probe's doing, not the trunk's."""
    verdict = judged(measured(planted(tmp_path, LOW, (0.46, 0.44)), (0.2, 0.3), BOTH))
    assert verdict.where == NOT_THERE
    assert verdict.families[1].score is not None and verdict.families[1].score.score.hi < 0.25


def test_an_interval_across_the_border_is_open(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, LOW, (0.40, 0.30)), (0.2, 0.3), BOTH))
    assert verdict.where == UNDETERMINED and "reaches across 0.25" in " ".join(verdict.sentences)


@pytest.mark.parametrize("missing", ["full", "bilinear"])
def test_what_was_not_run_is_named(tmp_path: Path, missing: str) -> None:
    s = planted(tmp_path, LOW, None if missing == "bilinear" else (0.6, 0.3), None if missing == "full" else 0.7)
    verdict = judged(s)
    text = " ".join(verdict.sentences)
    assert verdict.where == UNDETERMINED
    assert ("bilinear probe was not fitted" if missing == "bilinear" else "full was not run") in text


def test_the_guides_own_format_has_a_point_but_no_verdict(tmp_path: Path) -> None:
    for name, f1, flags in (("full", 0.6, {}), ("frozen", 0.4, {"frozen": True}), ("random", 0.2, {"random": True})):
        write_guide_file(tmp_path / f"{name}.json", f1, **flags)
    verdict = verdict_of(group_results(collect_results(tmp_path)).sets[0])
    assert (verdict.headline, verdict.where) == (UNDETERMINED, UNDETERMINED)


def test_a_hidden_layer_reads_what_a_linear_one_does_not(tmp_path: Path) -> None:
    """The mlp probe sees the word alone, so what it finds is at the token (the fake's other read-out, renamed)."""
    s = planted(tmp_path, LOW, (0.6, 0.3))
    scores = score_set(s, n_boot=300)
    as_mlp = replace(
        scores, readouts={"headline": scores.headline, "mlp": replace(scores.readouts["bilinear"], readout="mlp")}
    )
    verdict = verdict_of(s, as_mlp)
    assert verdict.where == AT_THE_TOKEN and "not linearly" in " ".join(verdict.sentences)


def test_it_is_plain_json(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, LOW, (0.6, 0.3)), (0.2, 0.3), BOTH))
    again = json.loads(json.dumps(verdict.to_dict()))
    assert again["where"] == NOT_ROUTED and again["families"][1]["selectivity"]["frozen"]["lo"] == 0.2
    assert again["families"][1]["compression"] == {"frozen": 3.0, "random_frozen": 1.5}
