"""The scaling law of a table of runs: loss against parameters and tokens, and what it may be trusted with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emergence.errors import DataError
from emergence.findings.collect import OWN_KIND
from emergence.findings.law_runs import Unit, scaling_table_of
from emergence.findings.law_table import MOST_LOSS, LawTable, refuse_mixed_units, refuse_twins
from emergence.measures.scaling_law import (
    LEAST_SIZES,
    MOST_CONDITION,
    HeldOut,
    ScalingData,
    ScalingFit,
    bootstrap_scaling,
    effective_tokens,
    fit_scaling,
    rolling_hold_out,
    separating_run,
)
from emergence.plain import plain
from emergence.wording import counted, in_line

KIND, SCHEMA_VERSION = f"{OWN_KIND}scaling_law", 1
N_DRAWS = 200
#: Column of a count of parameters -> what it counts.
COUNTS = {"params": "non-embedding parameters", "params_total": "all parameters"}
#: What no number of a column exceeds.
MOST = {**dict.fromkeys(COUNTS, 1e18), "tokens": 1e20, "unique_tokens": 1e20, "loss": MOST_LOSS}


@dataclass(frozen=True)
class Optimum:
    """The least loss for a compute, with 90% bootstrap intervals. ``reach``: N in multiples of the largest trained."""

    compute: float
    params: float
    params_interval: tuple[float, float]
    tokens: float
    loss: float
    loss_interval: tuple[float, float]
    reach: float


@dataclass(frozen=True)
class ScalingOfCount:
    """The law with one count of parameters.

    Attributes:
        count: Column of ``COUNTS``. data: The runs, tokens discounted where they repeat.
        intervals: Constant to its 90% bootstrap interval.
    """

    count: str
    data: ScalingData
    fit: ScalingFit
    intervals: dict[str, tuple[float, float]]
    held_out: tuple[HeldOut, ...]
    optima: tuple[Optimum, ...]


@dataclass(frozen=True)
class ScalingAnalysis:
    """What a table says. ``repeats``: runs with more than one pass, whose tokens count less."""

    table: LawTable
    n: int
    sizes: int
    repeats: int
    laws: tuple[ScalingOfCount, ...]
    n_draws: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        laws = [
            {**vars(law), "data": {key: getattr(law.data, key) for key in ("params", "tokens", "loss")}}
            for law in self.laws
        ]
        fields = {**vars(self), "table": self.table.name, "about": self.table.about, "laws": laws}
        return plain({"kind": KIND, "schema_version": SCHEMA_VERSION, **fields})

    def text(self) -> str:
        """A paragraph for a terminal."""
        return "\n".join(in_line(line) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        repeats = f"; {self.repeats} with more than one pass, their tokens discounted" if self.repeats else ""
        yield f"scaling law of {self.table.name}: {self.n} runs, {self.sizes} sizes{repeats}"
        if self.table.about:
            yield f"  rows: {self.table.about}"
        for law in self.laws:
            fit = law.fit
            of_tokens = f" + {fit.b:.4g}*D^-{fit.beta:.4f}" if fit.has_tokens else ""
            yield f"  N counts {COUNTS[law.count]}: L = {fit.e:.4f} + {fit.a:.4g}*N^-{fit.alpha:.4f}{of_tokens}"
            ends = ", ".join(f"{name} [{lo:.4g}, {hi:.4g}]" for name, (lo, hi) in law.intervals.items())
            yield f"    90% over {self.n_draws} bootstraps of runs: {ends}"
            yield f"    objective {fit.objective:.6e}, condition number {fit.condition:.0f}"
            for held in law.held_out:
                yield (
                    f"    fitted to {held.n} runs up to N = {held.below:.3g}, {held.n_above} larger ones, up to "
                    f"{held.reach:.3g} times as large, are off by {held.error:.2%} (bias {held.bias:+.2%})"
                )
            if not law.held_out:
                yield "    nothing could be held out: no size above five others"
            for best in law.optima:
                yield self._optimum(best, law.held_out)

    def _optimum(self, best: Optimum, held_out: tuple[HeldOut, ...]) -> str:
        (n_lo, n_hi), (l_lo, l_hi) = best.params_interval, best.loss_interval
        words = (
            f"    C = {best.compute:.3g}: N = {best.params:.4g} [{n_lo:.4g}, {n_hi:.4g}], D = {best.tokens:.4g}, "
            f"L = {best.loss:.4f} [{l_lo:.4f}, {l_hi:.4f}]"
        )
        if best.reach <= 1:
            return words
        worst = max((held.error for held in held_out), default=math.nan)
        known = f"held-out errors were up to {worst:.2%}" if held_out else "no held-out error is known"
        return f"{words}; {best.reach:.3g} times the largest N trained, {known}"


def scaling_data(table: LawTable, count: str = "params") -> tuple[ScalingData, int]:
    """The runs of a table, and how many repeat their tokens.

    Raises:
        DataError: A cell, a row or the whole cannot be what a law is fitted to.
    """
    table.require("tokens", "loss", count)
    columns = {name: table.numbers(name) for name in (count, "tokens", "loss")}
    unique = table.numbers("unique_tokens") if table.has("unique_tokens") else columns["tokens"]
    for name, values in (*columns.items(), ("unique_tokens", unique)):
        for row in np.flatnonzero((values <= 0) | (values > MOST[name]))[:1]:
            raise table.refuse(f"{name} is {values[row]:g}: above 0, and at most {MOST[name]:g}", int(row))
    refuse_mixed_units(table)
    refuse_twins(table, (count, "tokens", "unique_tokens", "loss", "run"))
    sizes = len(np.unique(columns[count]))
    if sizes < LEAST_SIZES:
        raise DataError(
            f"{counted(sizes, 'size')} ({count}): a scaling law takes at least {LEAST_SIZES}{table.cure}", table.path
        )
    tokens = effective_tokens(columns["tokens"], unique)
    data = ScalingData(columns[count], tokens, columns["loss"])
    if len(data) <= 2 * len(data.logs) + 1:
        raise DataError(f"{len(data)} runs: the law has {2 * len(data.logs) + 1} constants", table.path)
    return data, int((unique < columns["tokens"]).sum())


def refuse_inseparable(data: ScalingData, fit: ScalingFit, path: Path) -> None:
    """Refuse runs in which N and D go together.

    Raises:
        DataError: They do; it names the run that would tell their exponents best apart.
    """
    if fit.has_tokens and fit.condition > MOST_CONDITION:
        n, d, _ = separating_run(data, fit)
        raise DataError(
            f"alpha and beta cannot be told apart (condition number {fit.condition:.0f}): N and D go together; a run "
            f"with N = {n:.3g} and D = {d:.3g} would separate them best",
            path,
        )


def analyse_scaling(
    path: Path,
    *,
    unit: Unit = "nats",
    series: str | None = None,
    compute: tuple[float, ...] = (),
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> ScalingAnalysis:
    """Read a table or a folder of runs, and fit the law, with every count of parameters that it has.

    Args:
        unit, series: Of the losses, and which pretraining data, where ``path`` is a folder.
        compute: FLOPs C = 6·N·D for which the best N and D are asked.

    Raises:
        DataError: The table allows no law, or all runs have one D and ``compute`` is asked for.
    """
    table = scaling_table_of(path, unit, series)
    laws: list[ScalingOfCount] = []
    for count in ("params", *(name for name in COUNTS if name != "params" and table.has(name))):
        data, repeats = scaling_data(table, count)
        fit = fit_scaling(data)
        refuse_inseparable(data, fit, path)
        if compute and not fit.has_tokens:
            raise DataError("all runs have one D: no best N and D for a compute (leave out --compute)", path)
        drawn = bootstrap_scaling(data, fit, n_draws, np.random.default_rng(seed))
        names = ("e", "a", "alpha", *(("b", "beta") if fit.has_tokens else ()))
        intervals = {name: _interval([getattr(each, name) for each in drawn]) for name in names}
        optima = tuple(_optimum(data, fit, drawn, each) for each in compute)
        laws.append(ScalingOfCount(count, data, fit, intervals, tuple(rolling_hold_out(data)), optima))
    return ScalingAnalysis(table, len(table), len(set(table.numbers("params"))), repeats, tuple(laws), n_draws)


def _interval(values: list[float]) -> tuple[float, float]:
    lo, hi = np.quantile(values, [0.05, 0.95])
    return float(lo), float(hi)


def _optimum(data: ScalingData, fit: ScalingFit, drawn: list[ScalingFit], compute: float) -> Optimum:
    n, d, loss = fit.optimal(compute)
    draws = [each.optimal(compute) for each in drawn]
    n_interval, loss_interval = _interval([each[0] for each in draws]), _interval([each[2] for each in draws])
    return Optimum(compute, n, n_interval, d, loss, loss_interval, n / float(data.params.max()))
