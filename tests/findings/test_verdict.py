"""The verdict follows its rule on planted results, and says what it cannot know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emergence.findings.collect import collect_results
from emergence.findings.comparable import ComparableSet, group_results
from emergence.findings.scores import score_set
from emergence.findings.verdict import AT_THE_TOKEN, NOT_ROUTED, Verdict, verdict_of
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import ADDS, NO_MORE, NOT_THERE, READS, SPANS, UNDETERMINED
from emergence.plain import plain
from tests.planted_runs import Added, write_guide_file, write_run

#: Cell -> (linear, bilinear) F1; full finetuning reaches 0.7.
LOW, BILINEAR = (0.30, 0.23), (0.54, 0.28)
NOTHING = {"linear": (0.0, 0.0), "bilinear": (0.0, 0.0)}
BY_BILINEAR = {"linear": (0.0, 0.0), "bilinear": (0.03, 0.06)}
BOTH = {"frozen": 3.0, "random_frozen": 1.5}
CELLS = ("frozen", "random_frozen")


def planted(
    root: Path,
    gains: dict[str, tuple[float, float]] | None,
    twin: dict[str, tuple[float, float]] | None = None,
    *,
    linear: tuple[float, float] = LOW,
    bilinear: tuple[float, float] = BILINEAR,
    full: float | None = 0.7,
    cells: tuple[str, ...] = CELLS,
    seeds: tuple[int, ...] = (42,),
    selection: dict[str, float] | None = None,
) -> ComparableSet:
    """A set of runs with F1 on the pretrained and on the random trunk, and what the states of each add (the random
    ones nothing by default); no gains at all, as older runs, for None."""
    for seed in seeds:
        if full is not None:
            write_run(root, "full", full, seed=seed)
        for k, cell in enumerate(cells):
            alone = {"selection": selection} if selection and k == 0 else {}
            added = Added((gains, twin or NOTHING)[k], **alone) if gains else None
            write_run(root, cell, linear[k], bilinear=bilinear[k], added=added, seed=seed)
    return group_results(collect_results(root)).sets[0]


def measured(
    s: ComparableSet,
    selectivity: dict[str, tuple[float, float]] | None,
    compression: dict[str, float] | None = None,
    families: tuple[str, ...] = ("linear", "bilinear"),
) -> ComparableSet:
    """The set with the probes' validity: the interval of selectivity, and compression, by cell."""
    cells = {}
    for cell, items in s.cells.items():
        if cell in CELLS:
            found: dict[str, Any] = {"selectivity": None, "mdl": None}
            if selectivity:
                lo, hi = selectivity[cell]
                found["selectivity"] = plain(Estimate((lo + hi) / 2, lo, hi, "bca", 120, 40, se=(hi - lo) / 4))
            if compression and cell in compression:
                found["mdl"] = {"uniform_bits": 1000.0, "online_bits": 1000.0 / compression[cell]}
            validity = {"validity": dict.fromkeys(families, found)}
            items = tuple(
                replace(item, result=replace(item.result, probes={**(item.result.probes or {}), **validity}))
                for item in items
            )
        cells[cell] = items
    return replace(s, cells=cells)


ABOVE_TWIN = {"frozen": (0.28, 0.32), "random_frozen": (0.10, 0.14)}


def judged(s: ComparableSet) -> Verdict:
    return verdict_of(s, score_set(s, n_boot=300))


# What the states tell ----------------------------------------------------------------------------


def test_what_only_the_bilinear_probe_adds_is_there_but_not_routed(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, BY_BILINEAR), ABOVE_TWIN, BOTH))
    assert (verdict.outcome, verdict.where) == (ADDS, NOT_ROUTED)
    assert verdict.short == "adds to words and positions, not routed to the token"
    assert {claim.family for claim in verdict.judgement.shown()} == {"bilinear"}


def test_the_first_sentence_has_the_answer_and_every_number(tmp_path: Path) -> None:
    first = judged(measured(planted(tmp_path, BY_BILINEAR), ABOVE_TWIN, BOTH)).sentences[0]
    assert first.startswith("For this trained model, the frozen states add to what words and positions tell")
    for number in ("0.300 [", "0.540 [", "0.230 [", "0.280 [", "0.600 [", "0.450 [", "0.700 ["):
        assert number in first, (number, first)
    assert "words and positions (no language model)" in first and "from the wh rule" in first
    assert "+0.030 [" in first and "+0.061 [" in first and "random twin +0.000 [" in first


def test_what_a_linear_probe_adds_is_at_the_token(tmp_path: Path) -> None:
    gains = {"linear": (0.03, 0.05), "bilinear": (0.03, 0.06)}
    verdict = judged(measured(planted(tmp_path, gains), ABOVE_TWIN))
    assert (verdict.outcome, verdict.where) == (ADDS, AT_THE_TOKEN)
    assert "tells a part of it: on top of words and positions the linear probe adds +0.05" in verdict.sentences[1]
    assert "less than" not in verdict.sentences[1]


def test_a_small_part_at_the_token_is_told_as_one(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, {"linear": (0.01, 0.008), "bilinear": (0.03, 0.06)}), ABOVE_TWIN))
    assert verdict.where == AT_THE_TOKEN and "argument selection, less than 0.03." in verdict.sentences[1]


def test_what_a_linear_probe_reads_alone_is_told_whole(tmp_path: Path) -> None:
    gains = {"linear": (0.08, 0.1), "bilinear": (0.08, 0.1)}
    runs = planted(tmp_path, gains, linear=(0.66, 0.28), bilinear=(0.66, 0.28), selection={"linear": 0.95})
    verdict = judged(measured(runs, ABOVE_TWIN))
    assert verdict.where == AT_THE_TOKEN and "tells whether it is the answer." in verdict.sentences[1]


def test_a_hidden_layer_reads_at_the_token_but_not_linearly(tmp_path: Path) -> None:
    """The mlp probe sees the word alone, so what it adds is at the token (the fake's bilinear probe, renamed)."""
    s = planted(tmp_path, BY_BILINEAR)
    scores = score_set(s, n_boot=300)
    as_mlp = replace(scores.readouts["bilinear"], readout="mlp")
    gains = tuple(
        replace(found, families={"linear": found.families["linear"], "mlp": found.families["bilinear"]})
        for found in scores.gains
    )
    s = measured(s, ABOVE_TWIN, families=("linear", "mlp"))
    verdict = verdict_of(s, replace(scores, readouts={"headline": scores.headline, "mlp": as_mlp}, gains=gains))
    assert verdict.where == AT_THE_TOKEN and "not linearly" in verdict.sentences[1]


def test_a_probe_that_beats_words_and_positions_by_itself_reads(tmp_path: Path) -> None:
    gains = {"linear": (0.0, 0.0), "bilinear": (0.08, 0.1)}
    runs = planted(tmp_path, gains, bilinear=(0.66, 0.28), selection={"bilinear": 0.95})
    verdict = judged(measured(runs, ABOVE_TWIN))
    assert (verdict.outcome, verdict.where) == (READS, NOT_ROUTED)


def test_a_gain_in_f1_alone_is_no_role(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, {"linear": (0.06, -0.02), "bilinear": (0.08, -0.03)}), ABOVE_TWIN))
    assert (verdict.outcome, verdict.where) == (SPANS, None)
    assert "who did what to whom is not shown" in verdict.sentences[0]


def test_above_its_twin_and_the_rule_but_not_above_words_and_positions_is_no_reading(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, NOTHING), ABOVE_TWIN, BOTH))
    assert (verdict.outcome, verdict.where) == (NO_MORE, None) and verdict.short == NO_MORE
    assert "exclude" in " ".join(verdict.sentences) and "0.03 token F1" in " ".join(verdict.sentences)


def test_what_a_random_twin_adds_as_well_is_the_probes_own(tmp_path: Path) -> None:
    same = {"linear": (0.0, 0.0), "bilinear": (0.05, 0.06)}
    assert judged(measured(planted(tmp_path, same, same), ABOVE_TWIN)).outcome == NO_MORE


def test_states_that_tell_no_more_than_a_random_trunks_hold_nothing(tmp_path: Path) -> None:
    s = planted(tmp_path, NOTHING, linear=(0.23, 0.23), bilinear=(0.28, 0.28))
    assert judged(measured(s, ABOVE_TWIN, BOTH)).outcome == NOT_THERE


# What vouches for where --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selectivity", "compression", "why"),
    [
        # clearly above zero on both trunks, as random trunks are: that counts for nothing
        ({"frozen": (0.2, 0.3), "random_frozen": (0.2, 0.28)}, BOTH, "not clearly above that on the random twin"),
        (ABOVE_TWIN, {"frozen": 1.4, "random_frozen": 1.5}, "no shorter than on the random twin"),
        (None, BOTH, "one seed alone"),
        (None, None, "were not measured on both trunks"),
    ],
)
def test_where_is_open_unless_a_difference_to_the_twin_vouches(
    tmp_path: Path,
    selectivity: dict[str, tuple[float, float]] | None,
    compression: dict[str, float] | None,
    why: str,
) -> None:
    for gains in (BY_BILINEAR, {"linear": (0.03, 0.05), "bilinear": (0.03, 0.06)}):
        verdict = judged(measured(planted(tmp_path / str(len(str(gains))), gains), selectivity, compression))
        assert (verdict.outcome, verdict.where) == (ADDS, UNDETERMINED)
        assert why in verdict.sentences[1] and verdict.short.endswith("where: undetermined")


def test_not_routed_takes_a_linear_probe_that_clearly_finds_less(tmp_path: Path) -> None:
    s = planted(tmp_path, BY_BILINEAR)
    scores = score_set(s, n_boot=300)
    wide = Estimate(0.03, -0.03, 0.09, "bca", 120, 40, se=0.03)
    gains = tuple(
        replace(g, families={**g.families, "bilinear": replace(g.families["bilinear"], gain_beyond_linear=wide)})
        for g in scores.gains
    )
    verdict = verdict_of(measured(s, ABOVE_TWIN), replace(scores, gains=gains))
    assert (verdict.outcome, verdict.where) == (
        ADDS,
        UNDETERMINED,
    ) and "does not clearly find less" in verdict.sentences[1]
    without = tuple(replace(g, families={"bilinear": g.families["bilinear"]}) for g in scores.gains)
    verdict = verdict_of(measured(s, ABOVE_TWIN), replace(scores, gains=without))
    assert verdict.where == UNDETERMINED and "was not fitted" in verdict.sentences[1]


def test_compression_vouches_over_seeds(tmp_path: Path) -> None:
    s = measured(planted(tmp_path, BY_BILINEAR, seeds=(1, 2, 3)), None, BOTH)
    verdict = judged(s)
    assert verdict.families[1].compression_difference and verdict.families[1].compression_difference.lo > 0
    assert verdict.where == NOT_ROUTED


# Seeds, older files, other formats ---------------------------------------------------------------


def test_several_seeds_speak_of_trainings(tmp_path: Path) -> None:
    verdict = judged(planted(tmp_path, BY_BILINEAR, seeds=(1, 2, 3)))
    assert verdict.outcome == ADDS and verdict.sentences[0].startswith("Over trainings (3 seeds), ")


def test_runs_from_before_gains_have_scores_and_no_verdict(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, None), ABOVE_TWIN, BOTH))
    assert (verdict.outcome, verdict.where, verdict.gains) == (UNDETERMINED, None, ())
    assert "run again with this version to measure what words and positions tell" in verdict.sentences[0]
    assert "0.540 [" in verdict.sentences[0] and "0.700 [" in verdict.sentences[0]
    assert "By the guide's scale: none" in " ".join(verdict.sentences)


def test_without_a_twin_nothing_is_decided(tmp_path: Path) -> None:
    verdict = judged(planted(tmp_path, BY_BILINEAR, cells=("frozen",)))
    assert verdict.outcome == UNDETERMINED and "no random twin" in verdict.sentences[0]
    assert "random frozen was not run" in " ".join(verdict.sentences)


def test_full_finetuning_is_not_needed_for_the_verdict_but_for_the_guides_scale(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, BY_BILINEAR, full=None), ABOVE_TWIN))
    assert (verdict.outcome, verdict.where, verdict.guide) == (ADDS, NOT_ROUTED, UNDETERMINED)
    assert "full was not run" in " ".join(verdict.sentences)


def test_the_guides_reading_stays_as_a_line_of_its_own(tmp_path: Path) -> None:
    verdict = judged(planted(tmp_path, NOTHING, linear=(0.62, 0.2)))
    assert verdict.guide == "strong"
    assert any(line.startswith("By the guide's scale: strong; emergence score 0.84 [") for line in verdict.sentences)


def test_the_guides_own_format_has_a_point_but_no_verdict(tmp_path: Path) -> None:
    for name, f1, flags in (("full", 0.6, {}), ("frozen", 0.4, {"frozen": True}), ("random", 0.2, {"random": True})):
        write_guide_file(tmp_path / f"{name}.json", f1, **flags)
    verdict = verdict_of(group_results(collect_results(tmp_path)).sets[0])
    assert (verdict.outcome, verdict.where, verdict.guide) == (UNDETERMINED, None, UNDETERMINED)


def test_it_is_plain_json(tmp_path: Path) -> None:
    verdict = judged(measured(planted(tmp_path, BY_BILINEAR), ABOVE_TWIN, BOTH))
    again = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert (again["outcome"], again["where"]) == (ADDS, NOT_ROUTED)
    bilinear = again["families"][1]
    assert bilinear["selectivity_difference"]["point"] == pytest.approx(0.18)
    assert bilinear["compression"] == {"frozen": 3.0, "random_frozen": 1.5}
    assert bilinear["gains"]["f1_tokens"]["gain"]["point"] == pytest.approx(0.03, abs=1e-6)
    assert len(again["claims"]) == 8 and again["gains"][1]["score"] == "argument_selection"
