"""Role tuples of stored predictions, and the curve of Arora and Goyal beside each role's share of failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emergence.errors import DataError
from emergence.experiment.claims import own_result
from emergence.experiment.facts import HEADLINE
from emergence.experiment.result import RunResult
from emergence.experiment.store import RunDirectory
from emergence.findings.collect import OWN_KIND, collect_results
from emergence.measures.skills import LEAST_TUPLES, RoleAnswers, TupleRate, failure_bound, tuple_rates
from emergence.plain import plain
from emergence.wording import counted, format_interval, in_line

SCHEMA_VERSION = 1
#: A score from which an answer counts as right.
RIGHT = 0.5
#: Questions below which a role is no skill of the overlay.
LEAST_QUESTIONS = 20
#: Shares of skills that the curve may leave out.
ALPHAS = tuple(float(alpha) for alpha in np.linspace(0.05, 0.95, 19).round(2))


@dataclass(frozen=True)
class SkillAnalysis:
    """Role tuples of one run.

    Attributes:
        run: Its id. label: Size and condition. loss: Of its trunk, nats per token; nan where it has none.
        rates: By size of the tuple. all_right: Questions of a predicate to predicates, and share without a wrong one.
        failures: Role to its questions and share of wrong answers.
        theta: Share of predicates with a wrong answer. skills: Mean number of questions of a predicate.
    """

    run: str
    label: str
    loss: float
    readout: str
    score: str
    rates: tuple[TupleRate, ...]
    all_right: dict[int, tuple[int, float]]
    failures: dict[str, tuple[int, float]]
    theta: float
    skills: float

    @property
    def bound(self) -> list[dict[str, float | bool]]:
        """The curve at each of :data:`ALPHAS`: at most this share of failures for all but a share α of the skills.

        Empty above θ = ½, where the theory ends.
        """
        if not 0 < self.theta <= 0.5:
            return []
        found = [(alpha, *failure_bound(self.theta, self.skills, alpha)) for alpha in ALPHAS]
        return [{"alpha": alpha, "failure": share, "by_counting": counting} for alpha, share, counting in found]

    @property
    def measured(self) -> list[dict[str, float]]:
        """The share of failures that all but a share α of the roles stay below."""
        shares = sorted(share for _, share in self.failures.values())
        if not shares:
            return []
        return [
            {"alpha": alpha, "failure": shares[max(math.ceil((1 - alpha) * len(shares) - 1e-9) - 1, 0)]}
            for alpha in ALPHAS
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return plain({**vars(self), "bound": self.bound, "measured": self.measured})

    def lines(self) -> Iterator[str]:
        """A paragraph for a terminal."""
        loss = f", loss {self.loss:.3f}" if math.isfinite(self.loss) else ""
        yield f"{self.run} ({self.label}{loss}), {self.readout}: right is {self.score} of {RIGHT} or more"
        for rate in self.rates:
            found = f"  {rate.k} of a predicate's questions right: {rate.p:.3f} of {rate.n:,} tuples"
            if rate.k > 1:
                found += (
                    f"; independent {rate.p1**rate.k:.3f}, given roles {rate.by_role:.3f}, given difficulty "
                    f"{rate.by_difficulty:.3f}; A = {format_interval(rate.association, rate.lo, rate.hi)}, "
                    f"p = {rate.p_value:.3g}"
                )
            yield found
        whole = ", ".join(f"{share:.2f} of {n:,} with {m}" for m, (n, share) in self.all_right.items())
        yield f"  predicates without a wrong answer: {whole}"
        bound = {float(each["alpha"]): float(each["failure"]) for each in self.bound}
        if not bound:
            yield f"  {self.theta:.0%} of the predicates have a wrong answer: the theory's curve ends at 50%"
            return
        above = [each for each in self.measured if each["failure"] > bound[each["alpha"]] + 1e-12]
        yield (
            f"  theory (theta {self.theta:.2f}, {self.skills:.1f} questions a predicate): {len(above)} of "
            f"{len(ALPHAS)} points of {counted(len(self.failures), 'role')} above its curve; so few roles illustrate it"
        )


@dataclass(frozen=True)
class Skills:
    """All runs of a folder, or one."""

    runs: tuple[SkillAnalysis, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        runs = [run.to_dict() for run in self.runs]
        return plain({"kind": f"{OWN_KIND}skills", "schema_version": SCHEMA_VERSION, "runs": runs,
                      "left_out": self.left_out})  # fmt: skip

    def text(self) -> str:
        """A paragraph for each run."""
        lines = [line for run in self.runs for line in run.lines()]
        return "\n".join(in_line(line) for line in (*lines, *(f"left out: {words}" for words in self.left_out)))


def analyse_skills(path: Path, *, readout: str = HEADLINE, score: str = "f1_tokens", seed: int = 0) -> Skills:
    """Every finished run under ``path``, or the run there.

    Raises:
        DataError: No run there has predictions that tell predicates, or no such read-out.
    """
    collection = collect_results(path)
    found, left_out = [], []
    for item in collection.found:
        if item.scores is None:
            left_out.append(f"{item.name}: no predictions")
            continue
        run = item.scores.run
        try:
            found.append(skills_of(run, item.result, readout=readout, score=score, seed=seed))
        except DataError as reason:
            left_out.append(f"{item.name}: {str(reason).removeprefix(f'{run.path}: ')}")
    if not found:
        raise DataError(f"no run has predictions with predicates{': ' + left_out[0] if left_out else ''}", path)
    return Skills(tuple(found), tuple(left_out))


def skills_of(
    run: RunDirectory,
    result: RunResult | None = None,
    *,
    readout: str = HEADLINE,
    score: str = "f1_tokens",
    seed: int = 0,
    n_null: int = 999,
) -> SkillAnalysis:
    """One finished run.

    Args:
        result: The run's own result, where the caller has read it.

    Raises:
        DataError: Its predictions tell no predicates or roles, or have no such read-out.
    """
    result, rows = result or own_result(run), run.read_predictions()
    try:
        asked = [row for row in rows if row["predicate_index"] is not None]
        right = [_score_of(row, readout, score) >= RIGHT for row in asked]
        roles = [str(row.get("asked_role") or row["role"]) for row in asked]
        sentences = [f"{row['source']}\x1f{row['sentence_id']}" for row in asked]
        predicates = [f"{s}\x1f{row['predicate_index']}" for s, row in zip(sentences, asked, strict=True)]
        answers = RoleAnswers.of(right, predicates, roles, [len(row["words"]) for row in asked], sentences)
    except KeyError as missing:
        raise DataError(f"its predictions do not tell {missing.args[0]}", run.path) from None
    except (TypeError, ValueError) as reason:
        raise DataError(f"its predictions tell no predicates ({reason})", run.path) from None
    rates = tuple_rates(answers, seed=seed, n_null=n_null)
    if not rates:
        raise DataError(f"fewer than {LEAST_TUPLES} questions with a predicate", run.path)
    sums = answers.sums(answers.right)
    loss = result.held_out_loss
    return SkillAnalysis(
        run=run.run_id,
        label=f"{result.config_name}, {result.condition}",
        loss=loss.nats_per_token if loss else math.nan,
        readout=readout,
        score=score,
        rates=tuple(rates),
        all_right={
            int(m): (int((answers.m == m).sum()), float((sums[answers.m == m] == m).mean()))
            for m in np.unique(answers.m)
        },
        failures=_failures(roles, right),
        theta=1 - answers.all_right,
        skills=float(answers.m.mean()),
    )


def _score_of(row: dict[str, Any], readout: str, score: str) -> float:
    return float(row[score] if readout == HEADLINE else row["readouts"][readout][score])


def _failures(roles: Sequence[str], right: Sequence[bool]) -> dict[str, tuple[int, float]]:
    """Roles with enough questions, the most frequent first."""
    counts, wrong = Counter(roles), Counter(role for role, ok in zip(roles, right, strict=True) if not ok)
    kept = sorted((role for role in counts if counts[role] >= LEAST_QUESTIONS), key=lambda r: (-counts[r], r))
    return {role: (counts[role], wrong[role] / counts[role]) for role in kept}
