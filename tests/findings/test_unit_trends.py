"""Verdicts on units over seeds: what agrees, and what must not be said."""

from __future__ import annotations

import pytest

from emergence.findings.unit_trends import seed_overlaps, unit_verdicts
from emergence.measures.selectivity import MORE_CONCENTRATED, MORE_DISTRIBUTED, NO_TREND, UNDETERMINED
from tests.planted_units import planted_units

STEPS = (1, 4, 16, 64, 256)


def run(seed: int, first: float, factor: float, **more: object):  # type: ignore[no-untyped-def]
    counts = {step: first * factor**i * (1 + 0.01 * seed) for i, step in enumerate(STEPS)}
    return planted_units(f"run {seed}", counts, seed=seed, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, MORE_DISTRIBUTED), (0.6, MORE_CONCENTRATED), (1.0, NO_TREND)])
def test_training_of_three_seeds(factor: float, verdict: str) -> None:
    (found,) = unit_verdicts([run(seed, 8, factor) for seed in range(3)])
    assert (found.against, found.kind, found.seeds, found.verdict) == ("training", "mlp", (0, 1, 2), verdict)
    assert f"3 seeds: {verdict} (half times {factor**4:.2f}" in found.sentence


def test_two_seeds_or_seeds_that_differ_say_nothing() -> None:
    (two,) = unit_verdicts([run(seed, 8, 1.5) for seed in range(2)])
    assert two.verdict == UNDETERMINED and "a verdict takes 3 seeds" in two.sentence
    (mixed,) = unit_verdicts([run(0, 8, 1.5), run(1, 8, 0.6), run(2, 8, 1.0)])
    assert mixed.verdict == UNDETERMINED and "intervals hold both" in mixed.sentence
    # The same trunk twice, in a full and in a frozen run, is one seed.
    twice = [*(run(seed, 8, 1.5) for seed in range(2)), run(1, 8, 1.5)]
    assert unit_verdicts(twice)[0].trends["half", "n"].change.n_seeds == 2


def test_one_count_that_goes_the_other_way_keeps_the_verdict_open() -> None:
    results = [run(seed, 8, 1.5) for seed in range(3)]
    for result in results:
        for trunk in result.trunks:
            for row in trunk["units"]["mlp"]["concentration"]:
                row["probe"]["n"] = 100 / row["probe"]["n"]
    (found,) = unit_verdicts(results)
    assert found.verdict == UNDETERMINED and "the counts disagree" in found.sentence


def test_over_sizes_numbers_and_shares_must_agree() -> None:
    def sizes(larger: float, n_units: int) -> str:
        results = []
        for seed in range(3):
            results.append(planted_units(f"d{seed}", {9: 8.0 + 0.1 * seed}, seed=seed))
            big = planted_units(f"t{seed}", {9: larger + 0.1 * seed}, seed=seed, size="tiny", n_params=1_000_000)
            for row in big.main["units"]["mlp"]["concentration"]:
                for count in ("half", "participation", "probe"):
                    row[count]["share"] = row[count]["n"] / n_units
            results.append(big)
        (found,) = unit_verdicts(results)
        assert found.against == "size" and len(found.trends) == 6
        return found.verdict

    assert sizes(64, 200) == MORE_DISTRIBUTED  # eight times as many, of twice the units
    assert sizes(16, 400) == UNDETERMINED  # twice as many, of four times the units: which it is depends on the count
    assert sizes(2, 400) == MORE_CONCENTRATED


def test_a_role_that_one_size_lacks_is_left_out_of_the_trend() -> None:
    results = []
    for seed in range(3):
        results.append(planted_units(f"d{seed}", {9: 8.0 + 0.1 * seed}, seed=seed))
        results.append(planted_units(f"t{seed}", {9: 64.0 + seed}, seed=seed, size="tiny", n_params=1_000_000))
    results[1].settings["data"]["roles"] = ["agent"]
    for row in results[0].main["units"]["mlp"]["concentration"]:
        if row["role"] == "patient":
            row["half"] = {**row["half"], "n": 1e6, "share": 1e4}
    (found,) = unit_verdicts(results)
    assert found.verdict == MORE_DISTRIBUTED


def test_seeds_share_units_by_number_beside_chance() -> None:
    results = [run(seed, 8, 1.0) for seed in range(3)]
    agent, patient = seed_overlaps(results)
    assert (agent.role, agent.pairs, agent.overlap.shared) == ("agent", 3, 2)
    assert agent.overlap.expected == pytest.approx(2 * 2 / 50) and agent.overlap.p < 0.01
    assert patient.role == "patient" and seed_overlaps(results[:1]) == []
