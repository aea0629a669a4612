"""The cluster bootstrap: against scipy, against planted truth, and where it must refuse."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm

from emergence.measures import bootstrap, resampling
from emergence.measures.bootstrap import (
    Estimate,
    Resamples,
    _bca,
    _quantiles,
    bootstrap_means,
    bootstrap_present_means,
    bootstrap_statistic,
    column,
    interval,
    present_means_together,
    seed_t_interval,
    statistic_draws,
)
from emergence.measures.resampling import (
    ClusterTable,
    cluster_jackknife,
    cluster_replicates,
    pooled_seed_spread,
    seed_df,
    seed_groups,
)
from emergence.measures.variance_parts import t_widening
from emergence.plain import plain


def _clustered(rng, n_clusters, *, mean=0.4, sd_cluster=0.2, sd=0.3, seeds=1, sd_seed=0.0):
    """Scores (S, N) with a random effect of each sentence and of each seed."""
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 9, n_clusters))
    effect = sd_cluster * rng.normal(size=n_clusters)[clusters]
    seed_effect = sd_seed * rng.normal(size=(seeds, 1))
    return mean + effect + seed_effect + sd * rng.normal(size=(seeds, len(clusters))), clusters


def test_agrees_with_scipy_bca_over_cluster_sums():
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(80), rng.integers(1, 9, 80))
    values = rng.beta(0.3, 1.5, 80)[clusters] * rng.random(len(clusters))  # skewed, so that BCa differs
    table = ClusterTable.from_questions({"f1": values}, clusters)
    ours = bootstrap_means(table, n_boot=20_000, seed=1)["f1"]
    theirs = scipy_bootstrap(
        (table.sums[0], table.counts),
        lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="BCa",
        rng=np.random.default_rng(2),
    )
    assert ours.method == "bca" and ours.flags == ()
    assert ours.point == pytest.approx(values.mean())
    assert ours.lo == pytest.approx(theirs.confidence_interval.low, abs=0.05 * (ours.hi - ours.lo))
    assert ours.hi == pytest.approx(theirs.confidence_interval.high, abs=0.05 * (ours.hi - ours.lo))
    assert ours.se == pytest.approx(theirs.standard_error, rel=0.03)


def test_jackknife_is_deletion():
    values, clusters = _clustered(np.random.default_rng(0), 6)
    table = ClusterTable.from_questions({"x": values}, clusters)
    naive = [values[0, clusters != c].mean() for c in range(6)]
    np.testing.assert_allclose(cluster_jackknife(table)[:, 0], naive)


def test_interval_covers_the_planted_mean():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(150):
        values, clusters = _clustered(rng, 60)
        estimate = bootstrap_means(ClusterTable.from_questions({"x": values}, clusters), n_boot=500, seed=trial)["x"]
        hits += estimate.lo <= 0.4 <= estimate.hi
    assert 0.90 <= hits / 150 <= 0.985


def test_seeds_and_clusters_add_their_variances():
    rng = np.random.default_rng(11)
    ratios = []
    for trial in range(150):
        values, clusters = _clustered(rng, 150, seeds=4, sd_seed=0.05)
        table = ClusterTable.from_questions({"x": values}, clusters)
        ratios.append(bootstrap_means(table, n_boot=300, seed=trial)["x"].se ** 2)
    sizes = np.arange(1, 9)
    n = 150 * sizes.mean()
    expected = 0.05**2 / 4 + 0.2**2 * 150 * (sizes**2).mean() / n**2 + 0.3**2 / (4 * n)
    assert np.mean(ratios) == pytest.approx(expected, rel=0.12)


def test_noise_of_questions_is_not_counted_again_as_seeds():
    """Without any seed effect the crossed interval must be about as wide as the clusters make it."""
    rng = np.random.default_rng(12)
    excess = []
    for trial in range(100):
        values, clusters = _clustered(rng, 100, sd_cluster=0.02, seeds=5)
        table = ClusterTable.from_questions({"x": values}, clusters)
        drawn = statistic_draws(Resamples.draw(table, 300, trial), column("x"))
        excess.append(drawn.variance / drawn.clusters.variance)
    assert np.median(excess) == pytest.approx(1.0, abs=0.15) and np.mean(excess) < 1.4


@pytest.mark.parametrize(("seeds", "sd_seed"), [(3, 0.0), (3, 0.03), (5, 0.1)])
def test_crossed_interval_covers_the_planted_mean(seeds, sd_seed):
    rng = np.random.default_rng(13)
    hits = 0
    for trial in range(150):
        values, clusters = _clustered(rng, 80, seeds=seeds, sd_seed=sd_seed)
        estimate = bootstrap_means(ClusterTable.from_questions({"x": values}, clusters), n_boot=300, seed=trial)["x"]
        hits += estimate.lo <= 0.4 <= estimate.hi
    assert 0.89 <= hits / 150 <= 0.99


def test_few_seeds_widen_to_students_t():
    assert t_widening(math.inf, 0.95) == 1.0
    assert t_widening(2, 0.95) == pytest.approx(4.302653 / 1.959964, rel=1e-5)
    values, clusters = _clustered(np.random.default_rng(0), 400, sd_cluster=0.0, sd=0.01, seeds=3, sd_seed=0.2)
    table = ClusterTable.from_questions({"x": values}, clusters)
    both, seeds_only = bootstrap_means(table, n_boot=4000)["x"], seed_t_interval(table.seed_means("x"))
    assert both.df == pytest.approx(2, abs=0.1)
    assert both.hi - both.lo == pytest.approx(seeds_only.hi - seeds_only.lo, rel=0.1)


def test_columns_share_resamples_and_seeds():
    rng = np.random.default_rng(2)
    values, clusters = _clustered(rng, 40, seeds=3, sd_seed=0.1)
    table = ClusterTable.from_questions({"a": values, "b": values + 0.1}, clusters)
    difference = bootstrap_statistic(table, lambda m: m["b"] - m["a"], n_boot=500)
    assert difference.point == pytest.approx(0.1)
    assert difference.lo == pytest.approx(0.1) and difference.hi == pytest.approx(0.1)
    apart = ClusterTable.from_questions({"a": values, "b": values}, clusters, {"b": ["x", "y", "z"]})
    draws = Resamples.draw(apart, 500)
    assert np.std(statistic_draws(draws, column("a")).draws - statistic_draws(draws, column("b")).draws) > 0.03


def test_some_seeds_shared_is_between_all_and_none():
    """Five frozen seeds, three of them finetuned as well: what the three have in common cancels in the difference."""
    rng = np.random.default_rng(6)
    variances = {"shared": [], "apart": []}
    for trial in range(200):
        effects = rng.normal(size=(5, 1)) * np.ones((1, 40))
        for kind, names in (("shared", ["0", "1", "2"]), ("apart", ["x", "y", "z"])):
            labels = {"a": list("01234"), "b": names}
            table = ClusterTable.from_questions({"a": effects, "b": effects[:3]}, np.arange(40), labels)
            drawn = statistic_draws(Resamples.draw(table, 20, trial), lambda m: m["a"] - m["b"])
            variances[kind].append(drawn.variance)
            assert [part.df for part in drawn.seeds] == ([2] if kind == "shared" else [4, 2])
    covariance = math.sqrt(2 / 3 * 5 / 4) / 5  # of the two means; 1/5 without the small bias for partial overlap
    assert np.mean(variances["shared"]) == pytest.approx(1 / 5 + 1 / 3 - 2 * covariance, rel=0.2)
    assert np.mean(variances["apart"]) == pytest.approx(1 / 5 + 1 / 3, rel=0.2)


def test_few_clusters_widen_to_students_t():
    values, clusters = _clustered(np.random.default_rng(1), 10)
    estimate = bootstrap_means(ClusterTable.from_questions({"x": values}, clusters), n_boot=300)["x"]
    sizes = np.bincount(clusters)
    assert estimate.df == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum() - 1) and "few_clusters" in estimate.flags
    equal = bootstrap_means(ClusterTable.from_questions({"x": values[:, :20]}, np.arange(20) // 2), n_boot=300)["x"]
    assert equal.df == pytest.approx(9)


def test_ten_clusters_cover_as_promised():
    rng = np.random.default_rng(8)
    hits = 0
    for trial in range(400):
        values, clusters = _clustered(rng, 10)
        estimate = bootstrap_means(ClusterTable.from_questions({"x": values}, clusters), n_boot=300, seed=trial)["x"]
        hits += estimate.lo <= 0.4 <= estimate.hi
    assert hits / 400 >= 0.92  # 0.89 with the bootstrap's own variance and the normal quantile


def test_a_cluster_with_most_questions_counts_by_the_jackknife():
    rng = np.random.default_rng(3)
    clusters = np.concatenate([np.zeros(60, dtype=int), np.arange(1, 20)])
    values = rng.normal(size=20)[clusters] + 0.1 * rng.normal(size=len(clusters))
    table = ClusterTable.from_questions({"x": values}, clusters)
    left_out = cluster_jackknife(table)[:, 0]
    jackknife = 19 / 20 * ((left_out - left_out.mean()) ** 2).sum()
    drawn = statistic_draws(Resamples.draw(table, 4000), column("x"))
    resampled = cluster_replicates(table, 4000, np.random.default_rng(0))[:, 0].var(ddof=1)
    assert drawn.clusters.variance == pytest.approx(jackknife) and jackknife > 1.5 * resampled
    assert drawn.draws.var(ddof=1) == pytest.approx(jackknife)


def _sizes(spreads, *, names=("full", "floor"), seeds=3, seed=0):
    """A table for each spread: columns whose seeds differ by it, on 300 questions without noise of their own."""
    rng = np.random.default_rng(seed)
    tables = []
    for spread in spreads:
        columns = {name: spread * rng.normal(size=(seeds, 1)) * np.ones((1, 300)) for name in names}
        labels = {name: [f"{name}:{s}" for s in range(seeds)] for name in names}
        tables.append(ClusterTable.from_questions(columns, np.arange(300), labels))
    return tables


def test_other_sizes_help_to_tell_the_variance_over_seeds():
    table, *peers = _sizes((0.1, 0.1, 0.1))
    alone, pooled = (bootstrap_means(table, n_boot=500, peers=p)["full"] for p in ((), peers))
    of_seeds = [t.seed_means("full").var(ddof=1) for t in (table, *peers)]
    assert alone.se**2 == pytest.approx(of_seeds[0] / 3) and alone.df == pytest.approx(2)
    assert pooled.se**2 == pytest.approx(np.mean(of_seeds) / 3) and pooled.df == pytest.approx(6)
    assert "seed_variance_pooled" in pooled.flags and "seed_variance_pooled" not in alone.flags
    assert pooled.point == alone.point


def test_other_cells_do_not():
    """A peer has to have the very column, with its seeds shared in the same way; one of one seed has no spread."""
    (table,) = _sizes((0.1,))
    (only_floor,) = _sizes((5.0,), names=("floor",))
    pooled = bootstrap_means(table, n_boot=200, peers=[only_floor])
    assert "seed_variance_pooled" not in pooled["full"].flags and "seed_variance_pooled" in pooled["floor"].flags
    assert pooled["full"].se == pytest.approx(bootstrap_means(table, n_boot=200)["full"].se)
    shared = ClusterTable.from_questions({"full": np.eye(3)[:, :2], "floor": np.eye(3)[:, :2]}, [0, 1])
    (single,) = _sizes((5.0,), seeds=1)
    for peer in (shared, single):
        assert not bootstrap_means(table, n_boot=200, peers=[peer])["full"].flags


def _sharing(sizes: dict[str, int], seed: int = 0) -> ClusterTable:
    """Columns whose first seeds are the same ones."""
    rng = np.random.default_rng(seed)
    return ClusterTable.from_questions({name: rng.random((n, 80)) for name, n in sizes.items()}, np.arange(80))


def test_degrees_of_freedom_are_of_the_seeds_that_a_number_depends_on() -> None:
    drawn = Resamples.draw(_sharing({"full": 5, "frozen": 3}), 200)
    for statistic, df in (
        (column("full"), 4),
        (column("frozen"), 2),
        (lambda means: means["full"] - means["frozen"], 2),
        (lambda means: 0 * means["full"], 2),
    ):
        assert [part.df for part in statistic_draws(drawn, statistic).seeds] == [df]


def test_sizes_pool_where_seeds_are_shared_alike_in_whatever_order_columns_stand() -> None:
    table = _sharing({"full": 5, "frozen": 3, "floor": 2})
    alike = _sharing({"floor": 4, "full": 3, "frozen": 3}, seed=1)
    lacking = _sharing({"full": 9, "frozen": 9}, seed=2)
    peers = [alike, lacking]
    assert list(table.sharing) == list(alike.sharing) == [("floor", "frozen", "full")]
    for name, df in {"full": 4 + 2, "frozen": 2 + 2, "floor": 1 + 3}.items():
        assert seed_df(table, name, peers) == df
        drawn = statistic_draws(Resamples.draw(table, 200, peers=peers), column(name))
        assert drawn.is_pooled and [part.df for part in drawn.seeds] == [df]
    assert seed_df(_sharing({"full": 1}), "full", []) == 0


def test_pooled_noise_of_questions_is_taken_out():
    rng = np.random.default_rng(2)
    ratios = []
    for trial in range(60):
        tables = [
            ClusterTable.from_questions({"x": _clustered(rng, 60, sd_cluster=0.0, seeds=3)[0][:, :100]}, np.arange(100))
            for _ in range(4)
        ]
        drawn = statistic_draws(Resamples.draw(tables[0], 50, trial, tables[1:]), column("x"))
        ratios.append(drawn.variance / drawn.clusters.variance)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)


def test_order_of_questions_and_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(4)
    values, clusters = _clustered(rng, 50)
    order = rng.permutation(values.shape[1])
    plain = ClusterTable.from_questions({"x": values}, clusters)
    shuffled = ClusterTable.from_questions({"x": values[:, order]}, [f"s{c:03d}" for c in clusters[order]])
    a, b = (bootstrap_means(t, n_boot=500, seed=9)["x"] for t in (plain, shuffled))
    assert (a.lo, a.hi) == pytest.approx((b.lo, b.hi), rel=1e-12)


def test_same_seed_same_interval_whatever_the_block_size(monkeypatch):
    values, clusters = _clustered(np.random.default_rng(4), 50)
    table = ClusterTable.from_questions({"x": values}, clusters)
    whole = cluster_replicates(table, 100, np.random.default_rng(1))
    monkeypatch.setattr("emergence.measures.resampling._BLOCK_ELEMENTS", 50 * 7)
    np.testing.assert_allclose(cluster_replicates(table, 100, np.random.default_rng(1)), whole, rtol=1e-12)


def test_drawn_together_tables_have_what_they_have_alone() -> None:
    """To the bit, with seeds whose own draws follow those of the clusters, and whatever is drawn beside them."""
    rng = np.random.default_rng(6)
    tables = [
        ClusterTable.from_questions({"a": rng.random((n_seeds, n)), "b": rng.random((n_seeds, n))}, np.arange(n) % 40)
        for n_seeds, n in ((1, 90), (3, 120), (2, 40))
    ]
    for table, together in zip(tables, Resamples.draw_together(tables, 200, seed=5), strict=True):
        alone = Resamples.draw(table, 200, seed=5)
        for name in table.rows:
            np.testing.assert_array_equal(together.column_means[name], alone.column_means[name])
            np.testing.assert_array_equal(together.left_out_column_means[name], alone.left_out_column_means[name])
            assert interval(together, column(name)) == interval(alone, column(name))
        for ours, theirs in zip(together.groups, alone.groups, strict=True):
            np.testing.assert_array_equal(ours.moved, theirs.moved)
            np.testing.assert_array_equal(ours.moved_anyhow, theirs.moved_anyhow)
    fewer = ClusterTable.from_questions({"a": rng.random(9)}, np.arange(9))
    with pytest.raises(ValueError, match="other numbers of clusters"):
        Resamples.draw_together([*tables, fewer], 200)


@pytest.fixture
def shared_seeds() -> ClusterTable:
    """Two columns that share three of their seeds, and one whose seeds all score alike."""
    rng, clusters = np.random.default_rng(8), np.arange(200) % 50
    values = {"a": rng.random((5, 200)), "b": rng.random((3, 200)), "same": np.tile(rng.random(200), (5, 1))}
    return ClusterTable.from_questions(values, clusters, {"a": list("01234"), "b": list("012"), "same": list("01234")})


@pytest.mark.parametrize("gradient", [{"a": 1.0, "b": 0.0, "same": 0.0}, {"a": 0.3, "b": -2.0, "same": 5.0}])
def test_seeds_move_a_sum_of_columns_as_their_normal_weights_do(shared_seeds, gradient, monkeypatch) -> None:
    """Whatever is drawn at a time: weights (B, L) times the deviation of every seed, scaled to the variance."""
    means = {name: shared_seeds.seed_means(name) for name in gradient}
    by_hand = np.zeros(5)
    for name, of_seeds in means.items():
        s = len(of_seeds)
        by_hand[:s] += gradient[name] * (of_seeds - of_seeds.mean()) / math.sqrt(s * (s - 1))
    expected = np.random.default_rng(3).standard_normal((400, 5)) @ by_hand
    for elements in (1 << 17, 5 * 7):
        monkeypatch.setattr(resampling, "_BLOCK_ELEMENTS", elements)
        (group,) = seed_groups(shared_seeds, 400, np.random.default_rng(3))
        assert group.columns == ("a", "b", "same")
        moved = group.movements(gradient, float((by_hand**2).sum()))
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(group.movements(gradient, 4.0), 2 * expected / np.linalg.norm(by_hand), rtol=1e-9)


def test_seeds_whose_deviations_cancel_still_move_by_the_variance_of_other_sizes(shared_seeds) -> None:
    """Their own direction is rounding alone, or nothing."""
    rng = np.random.default_rng(9)
    values = rng.random((40, 300))
    table = ClusterTable.from_questions({"x": values, "y": 0.1 + values / 3}, np.arange(300) % 60)
    (group,) = seed_groups(table, 20_000, rng)
    for moved in (
        group.movements({"x": 1.0, "y": -3.0}, 0.25),
        seed_groups(shared_seeds, 20_000, rng)[0].movements({"a": 0.0, "b": 0.0, "same": 1.0}, 0.25),
    ):
        assert (moved.mean(), moved.std()) == pytest.approx((0.0, 0.5), abs=0.01)


def test_seeds_are_told_by_their_labels_in_whatever_order_they_stand() -> None:
    """Noise of the questions included, which is that of the same seed in both columns."""
    rng = np.random.default_rng(4)
    a, b, clusters = rng.random((3, 120)), rng.random((3, 120)), np.arange(120) % 40
    labels = {"a": ["x", "y", "z"], "b": ["z", "w", "x"]}
    table = ClusterTable.from_questions({"a": a, "b": b}, clusters, labels)
    (group,) = seed_groups(table, 300, np.random.default_rng(5))
    by_label = np.zeros((4, 120))  # x, y, z, w
    for scores, places, sign in ((a, [0, 1, 2], 1.0), (b, [2, 3, 0], -1.0)):
        by_label[places] += sign * (scores - scores.mean(axis=0)) / math.sqrt(6)
    own = by_label.mean(axis=1)
    gradient = {"a": 1.0, "b": -1.0}
    moved = group.movements(gradient, float((own**2).sum()))
    np.testing.assert_allclose(moved, np.random.default_rng(5).standard_normal((300, 4)) @ own, rtol=1e-9)
    (spread, _) = pooled_seed_spread(table, group.columns, gradient, ())
    influence = [np.bincount(clusters, row - row.mean()) / 120 for row in by_label]
    assert spread.total == pytest.approx((own**2).sum())
    assert spread.noise == pytest.approx(40 / 39 * np.square(influence).sum())


def test_sizes_with_other_numbers_of_seeds_are_averaged_by_their_degrees_of_freedom() -> None:
    """Each as it would be for a mean over as many seeds as the size in question has."""
    tables = [
        ClusterTable.from_questions({"x": np.random.default_rng(n).random((n, 90))}, np.arange(90)) for n in (3, 9, 5)
    ]
    alone = [pooled_seed_spread(table, ("x",), {"x": 2.0}, ())[0] for table in tables]
    pooled, helped = pooled_seed_spread(tables[0], ("x",), {"x": 2.0}, tables[1:])
    assert helped and (pooled.df, [one.df for one in alone]) == (2 + 8 + 4, [2, 8, 4])
    for part in ("total", "noise"):
        of_three = [getattr(one, part) * table.n_seeds / 3 for one, table in zip(alone, tables, strict=True)]
        assert getattr(pooled, part) == pytest.approx(np.average(of_three, weights=[2, 8, 4]))


def test_draws_are_as_wide_as_their_variance_says() -> None:
    """Noise of the questions is in it once, whether seeds have an effect of their own or none."""
    rng = np.random.default_rng(5)
    for sd_seed in (0.0, 0.05, 0.2):
        values, clusters = _clustered(rng, 60, seeds=4, sd_seed=sd_seed)
        drawn = statistic_draws(
            Resamples.draw(ClusterTable.from_questions({"x": values}, clusters), 20_000), column("x")
        )
        assert drawn.draws.var() == pytest.approx(drawn.variance, rel=0.05)


def test_columns_that_are_alike_differ_by_nothing_at_all() -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).random((3, 60))
        table = ClusterTable.from_questions({"a": values, "b": values}, np.arange(60) % 20)
        for peers in ((), (table,)):
            estimate = interval(Resamples.draw(table, 200, peers=peers), lambda means: means["a"] - means["b"])
            assert (estimate.lo, estimate.hi, estimate.se) == (0.0, 0.0, 0.0) and "degenerate" in estimate.flags


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_statistic_without_a_slope_has_no_interval() -> None:
    values = {"a": np.zeros((3, 60)), "b": np.random.default_rng(0).random((3, 60))}
    table = ClusterTable.from_questions(values, np.arange(60) % 20)
    estimate = bootstrap_statistic(table, lambda means: np.sqrt(means["a"]) + means["b"], n_boot=200)
    assert math.isnan(estimate.lo) and math.isnan(estimate.hi) and "undefined" in estimate.flags


def test_resamples_of_many_seeds_take_the_memory_of_few() -> None:
    def peak(n_seeds: int) -> int:
        table = ClusterTable.from_questions({"x": np.random.default_rng(0).random((n_seeds, 40))}, np.arange(40))
        tracemalloc.start()
        interval(Resamples.draw(table, 10_000), column("x"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)  # what the first call alone takes
    assert peak(400) < 1.3 * peak(100)


def test_means_over_present_values_are_drawn_once_for_each_number_of_clusters(monkeypatch) -> None:
    rng, sizes = np.random.default_rng(7), []
    original = bootstrap.replicates_together

    def counted(tables, *arguments):
        sizes.append(tables[0].n_clusters)
        return original(tables, *arguments)

    sparse = np.where(np.arange(60) < 30, rng.random(60), np.nan)
    clusters = np.arange(60) // 3  # 20 of them, 10 with a value in `sparse`
    asked = [
        ({"x": rng.random(60), "sparse": sparse, "none": np.full(60, np.nan), "y": rng.random(60)}, clusters),
        ({"z": rng.random(60)}, clusters[::-1]),
        ({"few": rng.random(30)}, clusters[:30]),
    ]
    alone = [bootstrap_present_means(columns, of, n_boot=200, seed=3) for columns, of in asked]
    monkeypatch.setattr(bootstrap, "replicates_together", counted)
    assert present_means_together(asked, n_boot=200, seed=3) == alone
    assert sorted(sizes) == [10, 20] and [list(found) for found in alone] == [["x", "sparse", "y"], ["z"], ["few"]]


def test_degenerate_cases_say_so():
    constant = bootstrap_means(ClusterTable.from_questions({"x": np.ones(20)}, np.arange(20)), n_boot=200)["x"]
    assert (constant.lo, constant.hi, constant.method) == (1.0, 1.0, "percentile")
    assert set(constant.flags) == {"few_clusters", "degenerate"}
    single = bootstrap_means(ClusterTable.from_questions({"x": [0.0, 1.0]}, ["s", "s"]), n_boot=200)["x"]
    assert single.point == 0.5 and math.isnan(single.lo) and "too_few_clusters" in single.flags
    with pytest.raises(ValueError, match="not finite"):
        ClusterTable.from_questions({"x": [0.0, np.nan]}, [0, 1])
    with pytest.raises(ValueError, match="for 2 questions"):
        ClusterTable.from_questions({"x": [0.0]}, [0, 1])
    with pytest.raises(ValueError, match="different labels"):
        ClusterTable.from_questions({"x": np.zeros((2, 2))}, [0, 1], {"x": ["a", "a"]})


def test_estimate_survives_json():
    estimate = Estimate(0.5, float("nan"), float("inf"), "none", 3, 2, 1, ("undefined",))
    back = Estimate.from_dict(json.loads(json.dumps(plain(estimate), allow_nan=False)))
    assert back.point == 0.5 and back.flags == ("undefined",) and math.isnan(back.lo) and math.isnan(back.hi)


def test_t_interval_over_seeds():
    interval = seed_t_interval([0.4, 0.5, 0.6])
    assert interval.point == pytest.approx(0.5)
    assert interval.hi - interval.point == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert seed_t_interval([0.4]).flags == ("single_seed",)
    assert interval.hi - interval.point > norm.ppf(0.975) * interval.se


def test_scores_that_hardly_differ_have_an_interval() -> None:
    """Differences whose cubes are beyond any float: the skewness of a distribution does not depend on its scale."""
    values = np.array([1.0, 3.0, 2.0, 7.0])
    found = [
        bootstrap_means(ClusterTable.from_questions({"a": values * scale}, np.arange(4)), n_boot=200)["a"]
        for scale in (1.0, 1e-110)
    ]
    assert found[1].lo == pytest.approx(found[0].lo * 1e-110) and found[1].hi == pytest.approx(found[0].hi * 1e-110)


def test_columns_are_resampled_as_their_seeds_are() -> None:
    rng = np.random.default_rng(0)
    table = ClusterTable.from_questions({"a": rng.random((3, 40)), "b": rng.random((2, 40))}, np.arange(40) // 4)
    resamples = Resamples.draw(table, 200, seed=5)
    for name, means in table.column_means(resamples.rows).items():
        np.testing.assert_allclose(resamples.column_means[name], means, rtol=1e-13)
    for name, means in table.column_means(cluster_jackknife(table)).items():
        np.testing.assert_allclose(resamples.left_out_column_means[name], means, rtol=1e-13)


def test_ties_do_not_depend_on_rounding() -> None:
    """Scores of 0 and 1 give draws equal to the point, and sums in another order are off by the last bit."""
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 2, (3, 60)).astype(float)
    draws = Resamples.draw(ClusterTable.from_questions({"x": scores}, np.arange(60) // 3), 4_000)
    values = draws.column_means["x"]
    point = float(scores.mean())
    tied = np.abs(values - point) < 1e-12
    assert tied.sum() > 20
    limits = [_bca(point, values * (1 + shift * 2**-52), 0.01, 0.95)[:2] for shift in (-2, 0, 2)]
    np.testing.assert_allclose(limits, [limits[1]] * 3, rtol=1e-12)


def test_quantiles_are_numpys_to_the_bit():
    rng = np.random.default_rng(0)
    for n in (*range(1, 60), 200, 1_000):
        for values in (rng.normal(size=n), rng.integers(-2, 3, n) / 4, rng.choice([-0.0, 0.0], n)):
            for shares in (rng.random(2), np.array([0.0, 1.0]), np.array([rng.integers(n) / n, 0.5])):
                expected = np.quantile(values, shares)
                assert np.array(_quantiles(values, shares)).tobytes() == expected.tobytes(), (values, shares)
