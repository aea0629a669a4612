"""Two corpora, or two of anything that was pretrained and finetuned alike: which one does a task emerge in earlier?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from emergence.errors import DataError, UsageError
from emergence.findings.collect import OWN_KIND
from emergence.findings.law_table import LawTable
from emergence.findings.laws import LawAnalysis, interval_words
from emergence.measures.law_comparison import Difference, point_difference, score_differences
from emergence.plain import plain
from emergence.wording import in_line

KIND, SCHEMA_VERSION = f"{OWN_KIND}law_comparison", 1
EarlierVerdict = Literal["A earlier", "B earlier", "undetermined"]
_VERDICTS: dict[int, EarlierVerdict] = {1: "A earlier", -1: "B earlier", 0: "undetermined"}
_SCORES = {1: "A higher", -1: "B higher", 0: "undetermined"}
_FLAGS = {
    "text_not_named": "the tables do not name the text of their losses (column text): an axis is shared by one text, "
    "best one outside both corpora",
    "no_common_losses": "no loss lies within both ranges: scores at equal loss would be extrapolated",
    "no_common_amounts": "no amount lies within both ranges",
}


@dataclass(frozen=True, eq=False)
class LawComparison:
    """Two laws on one axis.

    Attributes:
        point: Emergence point of A minus that of B: above 0 a task emerges in weaker models of A.
        loss: The lowest loss that both have trained; nan without one. scores: Amount to score of A minus that of B.
    """

    a: LawAnalysis
    b: LawAnalysis
    point: Difference
    loss: float
    scores: dict[float, Difference]
    level: float
    flags: tuple[str, ...]

    @property
    def verdict(self) -> EarlierVerdict:
        """By the emergence points alone; a higher loss is that of a weaker model, hence earlier."""
        return _VERDICTS[self.point.sign]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an open end is null."""
        sides = {
            name: {
                "table": side.table.name, "about": side.table.about, "emergence_point": law.elbow,
                "lo": side.profile and side.profile.lo, "hi": side.profile and side.profile.hi, "flags": side.flags,
            }
            for name, side in (("a", self.a), ("b", self.b))
            if (law := side.law) is not None
        }  # fmt: skip
        scores = [{"amount": n, **vars(found), "verdict": _SCORES[found.sign]} for n, found in self.scores.items()]
        return plain(
            {
                "kind": KIND, "schema_version": SCHEMA_VERSION, "verdict": self.verdict, **sides,
                "target_amount": self.a.target, "difference": self.point, "level": self.level, "equal_loss": self.loss,
                "scores": scores, "flags": self.flags,
            }
        )  # fmt: skip

    def text(self) -> str:
        """A paragraph for a terminal."""
        return "\n".join(in_line(line) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.verdict}: a task is earlier where it emerges at a higher loss, in weaker models"
        for name, side in (("A", self.a), ("B", self.b)):
            if side.law is not None and side.profile is not None:
                about = f" ({side.table.about})" if side.table.about else ""
                yield (
                    f"  {name}: {side.table.name}{about}: emergence point at {side.target:g} {side.law.elbow:.4f}, "
                    f"{self.level:.0%} {interval_words(side.profile.lo, side.profile.hi)}"
                )
        ends = interval_words(self.point.lo, self.point.hi)
        yield f"  A minus B: {self.point.point:+.4f}, {self.level:.0%} {ends}"
        for amount, found in self.scores.items():
            yield (
                f"  score at loss {self.loss:.4g}, {amount:,g} questions: A minus B {found.point:+.4f}, "
                f"{self.level:.0%} {interval_words(found.lo, found.hi)}: {_SCORES[found.sign]}"
            )
        yield from (f"  {flag}: {_FLAGS[flag]}" for flag in self.flags)
        for name, side in (("A", self.a), ("B", self.b)):
            if side.flags:
                yield f"  flags of {name} (emergence law fit tells them): {', '.join(side.flags)}"


def compare_laws(a: LawAnalysis, b: LawAnalysis, *, n_draws: int, seed: int = 0) -> LawComparison:
    """Both laws on one axis.

    Raises:
        DataError: The losses have no common axis. UsageError: The two predict for different amounts, or have no law.
    """
    refuse_other_axes(a.table, b.table)
    if a.law is None or b.law is None or not (a.profile and b.profile and a.errors and b.errors):
        raise UsageError("own elbows alone predict nothing: compare takes a law's --form")
    if a.link != b.link or a.target != b.target:
        raise UsageError(f"A predicts at {a.target:g}, B at {b.target:g}: give one --d0")
    level = a.profile.level
    flags = [] if a.table.has("text") and b.table.has("text") else ["text_not_named"]
    loss = max(float(side.data.loss.min()) for side in (a, b))
    amounts = _common_amounts(a, b)
    if loss > min(float(side.data.loss.max()) for side in (a, b)):
        flags.append("no_common_losses")
        loss, amounts = float("nan"), amounts[:0]
    elif not len(amounts):
        flags.append("no_common_amounts")
    found = score_differences(
        (a.law, b.law), (a.errors, b.errors), loss, amounts, level=level, n_draws=n_draws, seed=seed
    ) if len(amounts) else []  # fmt: skip
    point = point_difference(a.law, b.law, a.profile, b.profile)
    scores = dict(zip(amounts.tolist(), found, strict=True))
    return LawComparison(a, b, point, loss, scores, level, tuple(flags))


def _common_amounts(a: LawAnalysis, b: LawAnalysis) -> Any:
    """Amounts that both have; without one the geometric middle of what both span; none where they span nothing."""
    common = np.intersect1d(a.data.amounts, b.data.amounts)
    if len(common):
        return common
    low, high = (pick(side.data.amounts[i] for side in (a, b)) for pick, i in ((max, 0), (min, -1)))
    return np.array([round(float(np.sqrt(low * high)))], dtype=np.float64) if low <= high else common


def refuse_other_axes(a: LawTable, b: LawTable) -> None:
    """Refuse two tables whose losses are of different units, tokenizers or texts.

    Raises:
        DataError: They are.
    """
    for column, words in (("unit", "units"), ("tokenizer", "tokenizers"), ("text", "texts")):
        ours, theirs = (set(table.names(column)) if table.has(column) else set() for table in (a, b))
        is_free = column == "tokenizer" and a.has("unit") and set(a.names("unit")) == {"bits_per_byte"}
        if ours and theirs and ours != theirs and not is_free:
            both = f"{', '.join(sorted(ours))} and {', '.join(sorted(theirs))}"
            cure = "give bits per byte of one text (unit bits_per_byte, or --unit)"
            raise DataError(f"losses of different {words} ({both}) on one axis: {cure}", b.path)
