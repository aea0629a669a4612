"""The emergence law of a table of runs: which table can have one, what it says, and how sure that is."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import expit, fdtrc, logit

from emergence.errors import DataError, UsageError
from emergence.findings.collect import OWN_KIND
from emergence.findings.law_runs import LEAST_AMOUNTS, LEAST_CHECKPOINTS, LEAST_RUNS, RunRows, law_table_of
from emergence.findings.law_sampler import sample_posterior
from emergence.findings.law_table import MOST_LOSS, LawTable, refuse_mixed_units, refuse_twins
from emergence.measures.emergence_law import BoolArray, LawData, LawFit, LawForm, LawModel, fit_law
from emergence.measures.free_elbows import FreeFit, fit_free
from emergence.measures.law_errors import LawErrors, fit_errors
from emergence.measures.law_intervals import LEVEL, N_DRAWS, Profile, bootstrap_runs, calibrated_profile, f_profile
from emergence.measures.law_posterior import LEAST_TIMES, Posterior
from emergence.plain import plain
from emergence.wording import in_line, parsed_number

SCHEMA_VERSION = 1
KIND = f"{OWN_KIND}emergence_law"
Link = Literal["identity", "logit"]
Form = Literal["free", "log_power", "power", "nofewshot"]
#: D_0 of a table without few-shot rows: the least supervision that counts as a task.
LEAST_SUPERVISION = 10.0
#: Amounts whose own elbow lies between the losses trained: with fewer, nothing says how it moves.
LEAST_ELBOWS = 2
#: Amounts and checkpoints below which a law is flagged.
FEW_AMOUNTS, FEW_CHECKPOINTS = 5, 6
#: What no count of questions exceeds.
MOST_AMOUNT = 1e12
#: Nats below the best loss trained from which on an extrapolation is not to be believed.
FAR = 0.3
#: Scores nearer to 0 or 1 are moved there before a logit.
_NEAREST = 0.005
#: The p-value above which scores do not rise at all.
_FLAT = 0.01
FLAGS = {
    "too_far": f"the interval reaches more than {FAR} below the best loss trained",
    "extrapolated": f"the emergence point itself lies more than {FAR} below the best loss trained",
    "unbounded_below": "the data do not bound it from below",
    "unbounded_above": "the data do not bound it from above",
    "alpha_at_bound": "alpha is at the bound of its search",
    "few_past_elbow": "no amount has three checkpoints past its elbow",
    "few_before_elbow": "no amount has three checkpoints before its elbow",
    "few_amounts": f"fewer than {FEW_AMOUNTS} finetuning amounts",
    "few_checkpoints": f"fewer than {FEW_CHECKPOINTS} checkpoints",
    "one_draw": "one draw of finetuning data an amount: its effect and the amount's cannot be told apart",
    "split": "what fits is in several pieces; the interval goes from end to end",
    "lack_of_fit": "one elbow an amount fits clearly better than the law (p < 0.01)",
    "levels_differ": "scores at the weakest checkpoint differ by amount, and the law has one base for all amounts",
}
#: Levels differ where they span more than this share of all scores.
_LEVELS = 0.4


def law_data(table: LawTable, link: Link = "identity") -> LawData:
    """The runs of a table.

    Raises:
        DataError: A cell, a row or the whole cannot be what a law is fitted to.
    """
    table.require("loss", "amount", "score")
    loss, amount, score = (table.numbers(name) for name in ("loss", "amount", "score"))
    few = np.array(table.flags("fewshot")) if table.has("fewshot") else np.zeros(len(table), dtype=bool)
    se = table.numbers("se") if table.has("se") else None
    for i in range(len(table)):
        _refuse_row(table, i, loss[i], amount[i], score[i], bool(few[i]), None if se is None else se[i])
    _refuse_subsets(table)
    refuse_mixed_units(table)
    refuse_twins(table, ("loss", "amount", "score", "fewshot", "checkpoint", "subset", "size"))
    if table.has("subset"):
        refuse_twins(table, ("loss", "amount", "fewshot", "checkpoint", "subset", "size"))
    names = [table.names(name) if table.has(name) else [""] * len(table) for name in ("checkpoint", "size")]
    if not any(names[0]):
        names[0] = [repr(x) for x in loss]
    if link == "logit":
        if (score < 0).any():
            raise DataError("a score below 0 has no logit: take --link identity", table.path)
        near = np.clip(score, _NEAREST, 1 - _NEAREST)
        se = None if se is None else se / (near * (1 - near))
        score = logit(near)
    return LawData.of(
        loss,
        amount,
        score,
        fewshot=few,
        checkpoint=["/".join(pair) for pair in zip(*names, strict=True)],
        draw=table.names("subset") if table.has("subset") else None,
        se=se,
    )


def _refuse_row(
    table: LawTable, i: int, loss: float, amount: float, score: float, is_fewshot: bool, se: float | None
) -> None:
    """Refuse numbers that no run has; see :func:`law_data`."""
    if not 0 < loss <= MOST_LOSS:
        raise table.refuse(
            f"loss {loss:g}: a pretraining loss is above 0, and at most {MOST_LOSS:g} (no perplexity)", i
        )
    if not -1 <= score <= 1:
        raise table.refuse(f"score {score:g}: scores are shares, at most 1 (divide percentages by 100)", i)
    if amount < 2 and not is_fewshot:
        raise table.refuse(f"amount {amount:g}: 2 or more, and fewshot 1 for runs without finetuning", i)
    if amount < 0 or amount > MOST_AMOUNT or amount != int(amount):
        what = "shots" if is_fewshot else "finetuning questions"
        raise table.refuse(f"amount {amount:g}: a count of {what}, a whole number up to {MOST_AMOUNT:g}", i)
    if se is not None and not 0 < se <= 1:
        raise table.refuse(f"se {se:g}: a standard error is above 0, and at most 1 (divide percentages by 100)", i)


def _refuse_subsets(table: LawTable) -> None:
    """Refuse the number of a draw that is below 0 or no whole one; a draw may have any name."""
    for i, name in enumerate(table.names("subset")):
        try:
            number = parsed_number(name)
        except ValueError:
            continue
        if not (number >= 0 and number.is_integer()):
            raise table.refuse(f"subset {name[:40]}: 0, 1, 2 and so on, or a name", i)


def refuse_lawless(data: LawData, path: Path, *, amounts: int = LEAST_AMOUNTS, cure: str = "") -> None:
    """Refuse runs that no curve can be fitted to; ``cure`` says which more would do.

    Raises:
        DataError: Too few runs, amounts or checkpoints, or scores that are flat or rise with the loss.
    """
    tuned = data.rows(~data.fewshot)
    if len(tuned) < LEAST_RUNS:
        raise DataError(f"{len(tuned)} finetuned runs: a law takes at least {LEAST_RUNS}{cure}", path)
    if len(tuned.amounts) < amounts:
        raise DataError(
            f"{len(tuned.amounts)} finetuning amount(s): a law takes at least {amounts}, better {FEW_AMOUNTS}{cure}",
            path,
        )
    if len(np.unique(tuned.loss)) < LEAST_CHECKPOINTS:
        raise DataError(
            f"{len(np.unique(tuned.loss))} losses: a law takes at least {LEAST_CHECKPOINTS} checkpoints{cure}", path
        )
    level = np.searchsorted(tuned.amounts, tuned.amount)
    x, y = (v - (np.bincount(level, v) / np.bincount(level))[level] for v in (tuned.loss, tuned.score))
    if not float(y @ y) > 1e-20 or not float(x @ x) > 0:
        raise DataError("scores are flat: at no amount do they change with the loss", path)
    if float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) > 0.5:
        raise DataError("scores rise with the loss: is the loss column a score, or its sign turned?", path)


def refuse_unemerged(fit: LawFit, path: Path) -> None:
    """Refuse a fit without an elbow.

    Raises:
        DataError: Scores do not rise, or every checkpoint is past its elbow.
    """
    data = fit.model.data
    centred = fit.model.centre(data.score, data.weight)
    total = float(data.weight @ centred**2)
    rest = len(data) - fit.model.n_parameters
    ratio = (total - fit.rss) / 4 / max(fit.rss / max(rest, 1), 1e-300)
    if fit.slope <= 0 or fdtrc(4, max(rest, 1), ratio) > _FLAT:
        raise DataError("scores are flat: no rise with falling loss beyond chance, so no elbow", path)
    before = int((data.loss > fit.model.elbows(fit.theta)[fit.model.level])[~data.fewshot].sum())
    if before < 3:
        raise DataError(f"{before} run(s) before emergence: all are past their elbow, add weaker checkpoints", path)


def levels_of(data: LawData) -> tuple[float, float] | None:
    """Least and largest mean score of an amount at the weakest checkpoint, if they span much of all scores."""
    tuned = data.rows(~data.fewshot)
    weakest = tuned.rows(tuned.loss == tuned.loss.max())
    means = [float(weakest.score[weakest.amount == amount].mean()) for amount in np.unique(weakest.amount)]
    return (min(means), max(means)) if max(means) - min(means) > _LEVELS * float(np.ptp(tuned.score)) else None


def refuse_elbows_out_of_range(free: FreeFit, data: LawData, path: Path) -> None:
    """Refuse a law over elbows that no run has seen.

    Raises:
        DataError: Fewer than :data:`LEAST_ELBOWS` amounts have runs on both sides of an elbow of their own.
    """
    within = int(((free.before > 0) & (free.past > 0)).sum())
    if within < LEAST_ELBOWS:
        levels, why = levels_of(data), ""
        if levels is not None:
            why = f"; {FLAGS['levels_differ']} ({levels[0]:.3g} to {levels[1]:.3g})"
        raise DataError(
            f"{within} of {len(free.amounts)} amounts have an elbow between the losses trained, and a law takes "
            f"{LEAST_ELBOWS}: add amounts or checkpoints where scores begin to rise "
            f"(--form free shows the elbows){why}",
            path,
        )


@dataclass(frozen=True)
class Ablated:
    """The emergence point from a part of the runs; ``reason`` where there is none."""

    name: str
    n: int
    elbow: float = math.nan
    lo: float = math.nan
    hi: float = math.nan
    reason: str = ""


@dataclass(frozen=True, eq=False)
class LawAnalysis:
    """All that a table says.

    Attributes:
        target: D_0. form: Of the law, or ``free``, which has none.
        law, errors, profile: None for ``free``.
        compared: Other intervals: name to ends.
        missing: What was left out, and what it needs or why.
    """

    table: LawTable
    data: LawData
    link: Link
    form: Form
    target: float
    free: FreeFit
    law: LawFit | None
    errors: LawErrors | None
    profile: Profile | None
    posterior: Posterior | None
    compared: dict[str, tuple[float, float]]
    ablations: tuple[Ablated, ...]
    flags: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def best_loss(self) -> float:
        return float(self.data.loss.min())

    @property
    def share_emerged(self) -> float:
        """How sure it is that the best model trained is past the emergence point; nan without a law."""
        if self.profile is None:
            return math.nan
        return 1 - float(self.profile.share_below(np.array([self.best_loss]))[0])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an open end of an interval is null."""
        out: dict[str, Any] = {"kind": KIND, "schema_version": SCHEMA_VERSION}
        out |= {
            "table": self.table.name,
            "about": self.table.about,
            "link": self.link,
            "form": self.form,
            "target_amount": self.target,
        }
        data = self.data
        out["runs"] = {
            "finetuned": int((~data.fewshot).sum()),
            "fewshot": int(data.fewshot.sum()),
            "checkpoints": int(data.checkpoint.max()) + 1,
            "amounts": data.amounts,
            "best_loss": self.best_loss,
        }
        out["free"] = self.free
        if self.law is not None and self.profile is not None:
            k, c = self.law.constants
            out["law"] = {
                "emergence_point": self.law.elbow, "lo": self.profile.lo, "hi": self.profile.hi,
                "level": self.profile.level, "method": f"calibrated profile, {len(self.profile.null)} draws",
                "alpha": self.law.alpha, "k": k, "c": c, "slope": self.law.slope, "base": self.law.base,
                "fewshot_shift": self.law.shift, "rss": self.law.rss, "elbows": self.law.elbows,
            }  # fmt: skip
            out["errors"] = self.errors
            out["quantiles"] = {f"{share:g}": place for share, place in self.profile.quantiles().items()}
            places = np.linspace(*_cdf_range(self.profile, self.law), 41)
            out["cdf"] = {"loss": places, "share_below": self.profile.share_below(places)}
            out["share_emerged_by_best_loss"] = self.share_emerged
        posterior = self.posterior
        out["posterior"] = posterior and {
            "quantiles": {f"{share:g}": place for share, place in posterior.quantiles.items()},
            "autocorrelation_times": posterior.times, "r_hat": posterior.r_hat, "is_converged": posterior.is_converged,
        }  # fmt: skip
        out["compared"] = self.compared
        out["ablations"] = self.ablations
        out["flags"], out["left_out"] = self.flags, self.missing
        score = expit(data.score) if self.link == "logit" else data.score
        out["rows"] = {"loss": data.loss, "amount": data.amount, "score": score, "fewshot": data.fewshot}
        return plain(out)

    def text(self) -> str:
        """A paragraph for a terminal."""
        return "\n".join(in_line(line) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from self._own_elbows()
        yield from self._law()
        for words in self.missing:
            yield f"  left out: {words}"

    def _own_elbows(self) -> Iterator[str]:
        data, unit = self.data, self._unit
        tuned = int((~data.fewshot).sum())
        few = f", {int(data.fewshot.sum())} few-shot" if data.fewshot.any() else ""
        yield (
            f"emergence law of {self.table.name}: {tuned} finetuned runs{few}; {int(data.checkpoint.max()) + 1} "
            f"checkpoints x {len(data.amounts)} amounts; best loss {self.best_loss:.4g}"
        )
        if self.table.about:
            yield f"  rows: {self.table.about}"
        head = f"  {'amount':>10}  {'own elbow':>12}" + (f"  {'by the law':>12}" if self.law is not None else "")
        yield f"{head}   runs before, past"
        for j, amount in enumerate(self.free.amounts):
            by_law = f"  {self.law.elbows[j]:>12.4f}" if self.law is not None else ""
            yield (
                f"  {amount:>10,g}  {_free_elbow(self.free, data, j):>12}{by_law}   "
                f"{self.free.before[j]}, {self.free.past[j]}"
            )
        yield f"  own elbows: slope {self.free.slope:.4g} ({unit}), base {self.free.base:.4g}"

    @property
    def _unit(self) -> str:
        return "logits of the score" if self.link == "logit" else "score"

    def _law(self) -> Iterator[str]:
        if self.law is None or self.profile is None or self.errors is None:
            return
        data, unit = self.data, self._unit
        k, c = self.law.constants
        variable = "D" if self.form == "power" else "(ln D)"
        shift = f", few-shot rows {self.law.shift:+.4g}" if len(self.law.model.groups) > 1 else ""
        yield f"  law: E(D) = {k:.4g}*{variable}^{self.law.alpha:.4g} + {c:.4g}; slope {self.law.slope:.4g}, base "\
              f"{self.law.base:.4g}{shift}"  # fmt: skip
        e = self.errors
        yield f"  errors: checkpoint {e.checkpoint:.2g}, draw {e.draw:.2g}, rest {e.rest:.2g} ({unit})"
        what = "shots" if data.fewshot.any() else "questions (minimum supervision)"
        yield (
            f"  emergence point at {self.target:g} {what}: {self.law.elbow:.4f}, {self.profile.level:.0%} "
            f"{interval_words(self.profile.lo, self.profile.hi)} (calibrated profile, {len(self.profile.null)} draws)"
        )
        quantiles = self.profile.quantiles()
        yield "  quantiles: " + ", ".join(f"{share:.0%} {_place(place)}" for share, place in quantiles.items())
        yield f"  confidence that it has emerged by the best loss trained: {self.share_emerged:.0%}"
        for name, (lo, hi) in self.compared.items():
            yield f"  for comparison, {name}: {interval_words(lo, hi)}"
        if self.posterior is not None and not self.posterior.is_converged:
            yield (
                f"  the posterior's chain is too short: {self.posterior.times:.0f} of {LEAST_TIMES} autocorrelation "
                f"times, R-hat {self.posterior.r_hat:.3f}"
            )
        for part in self.ablations:
            found = part.reason or f"{part.elbow:.4f} {interval_words(part.lo, part.hi)}"
            yield f"  {part.name} ({part.n} runs): {found}"
        for flag in self.flags:
            yield f"  {flag}: {FLAGS[flag]}"


def interval_words(lo: float, hi: float) -> str:
    """``[1.678, 1.752]``, or the one-sided bound that is left."""
    if math.isfinite(lo) and math.isfinite(hi):
        return f"[{lo:.4f}, {hi:.4f}]"
    if math.isfinite(hi):
        return f"unbounded below, at most {hi:.4f}"
    return f"unbounded above, at least {lo:.4f}" if math.isfinite(lo) else "unbounded on both sides"


def _place(place: float) -> str:
    return f"{place:.4f}" if math.isfinite(place) else "unbounded"


def _free_elbow(free: FreeFit, data: LawData, j: int) -> str:
    mine = data.loss[~data.fewshot & (data.amount == free.amounts[j])]
    if free.past[j] == 0:
        return f"< {mine.min():.4f}"
    return f"> {mine.max():.4f}" if free.before[j] == 0 else f"{free.elbows[j]:.4f}"


def _cdf_range(profile: Profile, law: LawFit) -> tuple[float, float]:
    span = float(np.ptp(law.model.data.loss))
    lo = profile.lo if math.isfinite(profile.lo) else law.elbow - span
    hi = profile.hi if math.isfinite(profile.hi) else law.elbow + span
    return lo - 0.2 * (hi - lo), hi + 0.2 * (hi - lo)


def analyse_law(
    path: Path,
    *,
    rows: RunRows = RunRows(),
    form: Form = "log_power",
    link: Link = "identity",
    target: float | None = None,
    level: float = LEVEL,
    n_draws: int = N_DRAWS,
    compare: bool = False,
    ablate: bool = False,
    seed: int = 0,
) -> LawAnalysis:
    """Read a table or a folder of runs, fit own elbows and the law, and say how sure the emergence point is.

    Args:
        rows: Which rows a folder gives.
        target: D_0; by default the amount of the few-shot rows, or :data:`LEAST_SUPERVISION` without any.
        compare: Also give the intervals of the paper's methods. ablate: Also leave out parts of the runs.

    Raises:
        DataError: The table allows no law, or no D_0 by default. UsageError: D_0 does not lie between 1 and the
            largest amount.
    """
    table = law_table_of(path, rows)
    data = law_data(table, link)
    refuse_lawless(data, path, amounts=1 if form == "free" else LEAST_AMOUNTS, cure=table.cure)
    at = _target(data, target, table)
    free = fit_free(data)
    law = errors = profile = posterior = None
    compared: dict[str, tuple[float, float]] = {}
    ablations: list[Ablated] = []
    missing: list[str] = []
    flags: list[str] = []
    if form != "free":
        law = fit_law(LawModel(data, form, at))
        refuse_unemerged(law, path)
        refuse_elbows_out_of_range(free, data, path)
        errors = fit_errors(law)
        profile = calibrated_profile(law, errors, level=level, n_draws=n_draws, seed=seed)
        flags = _flags(law, profile, free, table)
        if compare:
            posterior, compared, missing = _compared(law, level, n_draws, seed)
        if ablate:
            ablations = list(_ablations(data, form, at, level, n_draws, seed, path))
    return LawAnalysis(
        table, data, link, form, at, free, law, errors, profile, posterior, compared, tuple(ablations), tuple(flags),
        (*missing, *table.left_out),
    )  # fmt: skip


def _target(data: LawData, target: float | None, table: LawTable) -> float:
    shots, most = np.unique(data.amount[data.fewshot]), data.amounts[-1]
    if target is None:
        if len(shots) > 1:
            numbers = ", ".join(f"{n:g}" for n in shots)
            raise DataError(f"few-shot rows of {numbers} shots: a law has one D_0, keep one or give --d0", table.path)
        target = float(shots[0]) if len(shots) else LEAST_SUPERVISION
        if not 1 < target < most:
            what = (
                f"few-shot rows of {target:g} shots: 2 or more, and"
                if len(shots)
                else f"D_0, by default {target:g} questions, has to be"
            )
            row = int(np.flatnonzero(data.fewshot)[0]) if len(shots) else int(np.argmax(data.amount))
            raise table.refuse(f"{what} fewer than the largest amount finetuned, {most:g}; or give --d0", row)
    if not 1 < target < most:
        raise UsageError(f"--d0 {target:g}: above 1 and below the largest amount, {most:g}")
    return target


def _flags(law: LawFit, profile: Profile, free: FreeFit, table: LawTable) -> list[str]:
    data, model = law.model.data, law.model
    best = float(data.loss.min())
    elbows = model.elbows(law.theta)[model.level]
    past = data.loss < elbows
    sides = {
        name: max(len(np.unique(data.loss[(data.amount == a) & ~data.fewshot & rows])) for a in data.amounts)
        for name, rows in (("past", past), ("before", ~past))
    }
    draws = table.has("subset") and len(set(table.names("subset"))) > 1
    rest = len(data) - data.fewshot.sum() - len(data.amounts) - 2
    more = len(data.amounts) - 3
    tuned = law if not data.fewshot.any() else fit_law(LawModel(data.rows(~data.fewshot), model.form, model.target))
    ratio = (tuned.rss - free.rss) / max(more, 1) / max(free.rss / max(rest, 1), 1e-300)
    found = {
        "too_far": profile.lo < best - FAR,
        "extrapolated": law.elbow < best - FAR,
        "unbounded_below": not math.isfinite(profile.lo),
        "unbounded_above": not math.isfinite(profile.hi),
        "alpha_at_bound": not model.alpha[0] * 1.001 < law.alpha < model.alpha[1] * 0.999,
        "few_past_elbow": sides["past"] < 3,
        "few_before_elbow": sides["before"] < 3,
        "few_amounts": len(data.amounts) < FEW_AMOUNTS,
        "few_checkpoints": int(data.checkpoint.max()) + 1 < FEW_CHECKPOINTS,
        "one_draw": not draws,
        "split": profile.is_split,
        "lack_of_fit": more > 0 and rest > 0 and fdtrc(more, rest, max(ratio, 0)) < _FLAT,
        "levels_differ": levels_of(data) is not None,
    }
    return [name for name, holds in found.items() if holds]


def _compared(
    law: LawFit, level: float, n_draws: int, seed: int
) -> tuple[Posterior | None, dict[str, tuple[float, float]], list[str]]:
    """The intervals of the paper's methods and of an uncalibrated profile."""
    rng = np.random.default_rng(seed)
    ends = [(1 - level) / 2, (1 + level) / 2]
    found = {"profile, errors taken as independent": f_profile(law, level=level)}
    for name, whole in (("bootstrap of runs within amounts", False), ("bootstrap of draws within amounts", True)):
        if whole and not _has_draws(law.model.data):
            continue
        lo, hi = np.quantile(bootstrap_runs(law, n_draws, rng, whole_draws=whole), ends)
        found[name] = float(lo), float(hi)
    if importlib.util.find_spec("emcee") is None:
        return None, found, ["the posterior, which needs emcee: pip install -e '.[laws]'"]
    posterior = sample_posterior(law, seed=seed)
    found["posterior, 5% to 95%"] = posterior.quantiles[0.05], posterior.quantiles[0.95]
    return posterior, found, []


def _has_draws(data: LawData) -> bool:
    """Whether some amount has two draws. All questions, the largest amount of many sweeps, can have but one."""
    return bool(data.draw_order.max() > 0)


def _parts(data: LawData) -> Iterator[tuple[str, BoolArray]]:
    """Parts of the runs, as in the paper's table 2. The last checkpoints are those with the lowest losses."""
    amounts, losses = data.amounts, np.unique(data.loss)
    for k in (1, 2, 3):
        yield f"without the {k} smallest amount(s)", data.fewshot | (data.amount > amounts[min(k, len(amounts)) - 1])
    for k in (1, 2, 3):
        yield f"without the {k} largest amount(s)", data.fewshot | (data.amount < amounts[-min(k, len(amounts))])
    if _has_draws(data):
        order = data.draw_order
        only = np.isin(data.amount, [a for a in data.amounts if not order[data.amount == a].max()])  # in every draw
        for k in range(min(4, int(order.max()) + 1)):
            yield f"draw {k + 1} alone", data.fewshot | only | (order == k)
    for k in (6, 5, 4, 3):
        if k < len(losses):
            yield f"last {k} checkpoints", data.loss <= losses[k - 1]
    if len(losses) > 6:
        yield "last 6, every other, even", np.isin(data.loss, losses[0:6:2])
        yield "last 6, every other, odd", np.isin(data.loss, losses[1:6:2])
    for k in (1, 2, 3, 4):
        if k < len(losses) - 2:
            yield f"without the last {k} checkpoint(s)", data.loss > losses[k - 1]


def _ablations(
    data: LawData, form: LawForm, target: float, level: float, n_draws: int, seed: int, path: Path
) -> Iterator[Ablated]:
    for name, keep in _parts(data):
        part = data.rows(keep)
        try:
            refuse_lawless(part, path)
            if target >= part.amounts[-1]:
                raise DataError("D_0 is not below its largest amount", path)
            fit = fit_law(LawModel(part, form, target))
            refuse_unemerged(fit, path)
            profile = calibrated_profile(fit, level=level, n_draws=n_draws, seed=seed)
        except DataError as error:
            yield Ablated(name, len(part), reason=str(error).removeprefix(f"{path}: "))
            continue
        yield Ablated(name, len(part), fit.elbow, profile.lo, profile.hi)
