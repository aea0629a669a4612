"""Laws and comparisons as ``emergence law fit|scaling|compare --output`` stored them, for figures and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emergence.errors import RunDirectoryError
from emergence.files import read_sealed
from emergence.findings.collect import Collection
from emergence.findings.law_comparison import KIND as COMPARISON
from emergence.findings.law_comparison import SCHEMA_VERSION as COMPARISON_VERSION
from emergence.findings.laws import FAR, FLAGS, KIND, SCHEMA_VERSION, interval_words
from emergence.findings.scaling import COUNTS
from emergence.findings.scaling import KIND as SCALING
from emergence.findings.scaling import SCHEMA_VERSION as SCALING_VERSION
from emergence.measures.law_errors import LawErrors
from emergence.measures.resampling import FloatArray
from emergence.measures.scaling_law import ScalingData, ScalingFit

_ERRORS = ("checkpoint", "draw", "rest")
Kept = TypeVar("Kept")


@dataclass(frozen=True, eq=False)
class StoredCurve:
    """A law, or own elbows: its score is slope·max(E − L, 0) + base, in the units of the link.

    Attributes:
        amounts, elbows: (J,) finetuning amounts and E at each.
    """

    amounts: FloatArray
    elbows: FloatArray
    slope: float
    base: float

    def score(self, elbow: float, loss: FloatArray, link: str) -> FloatArray:
        """Scores at losses of the curve with its elbow there."""
        fitted = self.slope * np.maximum(elbow - loss, 0.0) + self.base
        return np.asarray(1 / (1 + np.exp(-fitted)) if link == "logit" else fitted)


@dataclass(frozen=True)
class EmergencePoint:
    """E_0 with its interval; infinite ends are not bounded by the data. k, alpha, c: Constants of its law."""

    amount: float
    loss: float
    lo: float
    hi: float
    level: float
    method: str
    k: float
    alpha: float
    c: float
    is_power: bool

    def elbow(self, amounts: FloatArray) -> FloatArray:
        """E(D)."""
        scale = amounts if self.is_power else np.log(amounts)
        return np.asarray(self.k * scale**self.alpha + self.c)


@dataclass(frozen=True, eq=False)
class StoredLaw:
    """What a file of ``law fit --output`` says.

    Attributes:
        name: Of the file. table, about: What the runs were. form, link: As they were asked for.
        loss, amount, score, fewshot: (n,) the measured runs.
        errors: Standard deviations of checkpoints, draws and what is left; None for ``free``.
        free: Own elbows; ``side`` (J,) is −1 where an elbow lies somewhere below its losses, 1 where above them.
        law: None for ``free``. point: Its emergence point. share_emerged: By the best loss trained.
    """

    name: str
    table: str
    about: str
    form: str
    link: str
    loss: FloatArray
    amount: FloatArray
    score: FloatArray
    fewshot: FloatArray
    free: StoredCurve
    side: FloatArray
    law: StoredCurve | None
    point: EmergencePoint | None
    errors: LawErrors | None
    share_emerged: float
    flags: tuple[str, ...]

    @property
    def what(self) -> str:
        """What D_0 counts: shots, or the least supervision."""
        return "shots" if self.fewshot.any() else "training questions (minimum supervision)"

    def sentences(self) -> Iterator[str]:
        """What it predicts, how surely, and what it takes for granted."""
        best = float(self.loss.min())
        if self.point is None or self.law is None:
            yield f"Own elbows of {len(self.free.amounts)} amounts alone: no law, and nothing predicted."
            return
        point = self.point
        ends = interval_words(point.lo, point.hi)
        place = "above" if point.loss > best else "below"
        yield (
            f"With {point.amount:g} {self.what} the task emerges at a loss of {point.loss:.4f}, {point.level:.0%} "
            f"interval {ends} ({point.method}), {place} the best loss trained, {best:.4g}; confidence that it has "
            f"emerged by then: {self.share_emerged:.0%}."
        )
        curve = "k·D^α + C" if point.is_power else "k·(ln D)^α + C"
        scale = "logit of the score" if self.link == "logit" else "score"
        yield (
            f"It assumes that the {scale} is level down to an elbow in the loss and rises in a straight line below it, "
            f"with one slope for all amounts; that the elbow moves as E(D) = {curve}, outside the amounts that were "
            "tried as within them; and that runs share errors by checkpoint and by draw of questions, and are "
            "independent otherwise."
        )
        for flag in self.flags:
            yield f"{flag.replace('_', ' ')}: {FLAGS[flag]}."
        if point.loss < best - FAR:
            yield "Nothing was trained near the predicted point: no run here speaks for or against it."


@dataclass(frozen=True, eq=False)
class StoredScaling:
    """What a file of ``law scaling --output`` says with one count of parameters.

    Attributes:
        count: What N counts, in words. runs: Tokens discounted where they repeat.
        fit: The law. intervals: Constant to the ends of its 90% bootstrap interval.
        held_out: Largest N fitted, error of larger ones, of each cut. optima: Compute, N with its ends, loss.
    """

    name: str
    table: str
    about: str
    count: str
    runs: ScalingData
    fit: ScalingFit
    intervals: dict[str, tuple[float, float]]
    held_out: tuple[tuple[float, float], ...]
    optima: tuple[tuple[float, float, float, float, float], ...]


@dataclass(frozen=True)
class StoredComparison:
    """What a file of ``law compare --output`` says.

    Attributes:
        sides: Table in words, emergence point and its ends, of A and of B. amount: The number of questions that both
            predict for. point, lo, hi: A minus B. scores: Amount, A minus B at equal loss, its ends, its verdict.
        equal_loss: The lowest loss of both; None where they have none in common.
    """

    name: str
    verdict: str
    sides: tuple[tuple[str, float, float, float], ...]
    amount: float
    level: float
    point: float
    lo: float
    hi: float
    equal_loss: float | None
    scores: tuple[tuple[float, float, float, float, str], ...]
    flags: tuple[str, ...]


def stored_laws(collection: Collection) -> tuple[list[StoredLaw], list[tuple[str, str]]]:
    """Every stored law under a folder, and place and reason of each that cannot be read."""
    return _stored(collection, KIND, read_stored_law)


def stored_scaling_laws(collection: Collection) -> tuple[list[StoredScaling], list[tuple[str, str]]]:
    """The same of scaling laws, one for each count of parameters."""
    found, problems = _stored(collection, SCALING, read_stored_scaling)
    return [law for laws in found for law in laws], problems


def stored_comparisons(collection: Collection) -> tuple[list[StoredComparison], list[tuple[str, str]]]:
    """The same of comparisons."""
    return _stored(collection, COMPARISON, read_stored_comparison)


def _stored(
    collection: Collection, kind: str, read: Callable[[Path, str], Kept]
) -> tuple[list[Kept], list[tuple[str, str]]]:
    found, problems = [], []
    for told in collection.told:
        if told.kind == kind:
            name = told.path.relative_to(collection.root).as_posix() if told.path != collection.root else told.path.name
            try:
                found.append(read(told.path, name))
            except RunDirectoryError as error:
                problems.append((name, str(error).removeprefix(f"{told.path}: ")))
    return found, problems


def read_stored_law(path: Path, name: str) -> StoredLaw:
    """One stored law.

    Raises:
        RunDirectoryError: It is damaged, of another version, or not in this program's format.
    """
    return _read(path, name, (KIND, SCHEMA_VERSION), "emergence law", "fit", _law_of)


def read_stored_scaling(path: Path, name: str) -> list[StoredScaling]:
    """One stored scaling law, for each count of parameters.

    Raises:
        RunDirectoryError: As :func:`read_stored_law`.
    """
    return _read(path, name, (SCALING, SCALING_VERSION), "scaling law", "scaling", _scaling_of)


def read_stored_comparison(path: Path, name: str) -> StoredComparison:
    """One stored comparison.

    Raises:
        RunDirectoryError: As :func:`read_stored_law`.
    """
    return _read(path, name, (COMPARISON, COMPARISON_VERSION), "comparison of laws", "compare", _comparison_of)


def _read(
    path: Path,
    name: str,
    version: tuple[str, int],
    what: str,
    command: str,
    parse: Callable[[dict[str, Any], str], Kept],
) -> Kept:
    content = read_sealed(path)
    if (content.get("kind"), content.get("schema_version")) != version:
        raise RunDirectoryError(f"{path}: no {what} of this version: run emergence law {command} again")
    try:
        return parse(content, name)
    except (KeyError, TypeError, ValueError, AttributeError) as reason:
        raise RunDirectoryError(f"{path}: not in this program's format ({reason!r})") from None


def _law_of(content: dict[str, Any], name: str) -> StoredLaw:
    rows, free, law = content["rows"], content["free"], content.get("law")
    n = len(rows["loss"])
    loss, amount, score, fewshot = (_numbers(rows[key], n) for key in ("loss", "amount", "score", "fewshot"))
    amounts = _numbers(free["amounts"])
    own = _curve(free, amounts)
    before, past = (_numbers(free[key], len(amounts)) for key in ("before", "past"))
    if not n or not len(amounts) or (loss <= 0).any() or (amount <= 0).any() or (amounts <= 0).any():
        raise ValueError("no rows, or losses and amounts that are not above 0")
    flags = tuple(str(flag) for flag in content["flags"] if flag in FLAGS)
    point = None
    if law is not None:
        target = float(content["target_amount"])
        numbers = {key: _finite(law[key]) for key in ("emergence_point", "level", "k", "alpha", "c")}
        if not 1 < target <= amounts.max():
            raise ValueError(f"target amount {target}")
        point = EmergencePoint(
            amount=target,
            loss=numbers["emergence_point"],
            lo=-math.inf if law["lo"] is None else _finite(law["lo"]),
            hi=math.inf if law["hi"] is None else _finite(law["hi"]),
            level=numbers["level"],
            method=str(law["method"]),
            k=numbers["k"],
            alpha=numbers["alpha"],
            c=numbers["c"],
            is_power=content["form"] == "power",
        )
    share = content.get("share_emerged_by_best_loss")
    return StoredLaw(
        name=name,
        table=str(content["table"]),
        about=str(content.get("about") or ""),
        form=str(content["form"]),
        link=str(content["link"]),
        loss=loss,
        amount=amount,
        score=score,
        fewshot=fewshot,
        free=own,
        side=np.where(past == 0, -1.0, np.where(before == 0, 1.0, 0.0)),
        law=None if law is None else _curve(law, amounts),
        point=point,
        errors=None if law is None else LawErrors(*(_finite(content["errors"][key]) for key in _ERRORS)),
        share_emerged=math.nan if share is None else _finite(share),
        flags=flags,
    )


def _scaling_of(content: dict[str, Any], name: str) -> list[StoredScaling]:
    return [_scaling_of_count(content, law, name) for law in content["laws"]]


def _scaling_of_count(content: dict[str, Any], law: dict[str, Any], name: str) -> StoredScaling:
    runs = ScalingData(*(_numbers(law["data"][key]) for key in ("params", "tokens", "loss")))
    fit = law["fit"]
    constants = {key: math.nan if fit[key] is None else _finite(fit[key]) for key in ("e", "a", "b", "alpha", "beta")}
    ends = {str(key): (_finite(lo), _finite(hi)) for key, (lo, hi) in law["intervals"].items()}
    optima = [
        (best["compute"], best["params"], *best["params_interval"], best["loss"])
        for best in law["optima"]
    ]  # fmt: skip
    return StoredScaling(
        name,
        str(content["table"]),
        str(content.get("about") or ""),
        COUNTS[law["count"]],
        runs,
        ScalingFit(**constants, objective=_finite(fit["objective"]), condition=_finite(fit["condition"])),
        ends,
        tuple((_finite(held["below"]), _finite(held["error"])) for held in law["held_out"]),
        tuple(tuple(map(_finite, best)) for best in optima),  # type: ignore[misc]  # five numbers each
    )


def _comparison_of(content: dict[str, Any], name: str) -> StoredComparison:
    def ends(found: dict[str, Any]) -> tuple[float, float]:
        lo, hi = (found[key] for key in ("lo", "hi"))
        return -math.inf if lo is None else _finite(lo), math.inf if hi is None else _finite(hi)

    difference, equal = content["difference"], content["equal_loss"]
    return StoredComparison(
        name,
        str(content["verdict"]),
        tuple(
            (str(side.get("about") or side["table"]), _finite(side["emergence_point"]), *ends(side))
            for side in (content["a"], content["b"])
        ),
        _finite(content["target_amount"]),
        _finite(content["level"]),
        _finite(difference["point"]),
        *ends(difference),
        None if equal is None else _finite(equal),
        tuple(
            (_finite(row["amount"]), _finite(row["point"]), *ends(row), str(row["verdict"]))
            for row in content["scores"]
        ),
        tuple(map(str, content["flags"])),
    )


def _curve(stored: dict[str, Any], amounts: FloatArray) -> StoredCurve:
    elbows = _numbers(stored["elbows"], len(amounts))
    return StoredCurve(amounts, elbows, _finite(stored["slope"]), _finite(stored["base"]))


def _numbers(values: Any, n: int | None = None) -> FloatArray:
    found = np.array([_finite(value) for value in values])
    if n is not None and len(found) != n:
        raise ValueError(f"{len(found)} values for {n}")
    return found


def _finite(value: Any) -> float:
    if isinstance(value, str) or not math.isfinite(number := float(value)):
        raise ValueError(f"{value!r} is no number")
    return number
