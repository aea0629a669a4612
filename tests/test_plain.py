"""What is stored of every kind of result, byte for byte as it always was."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from emergence.answering.evaluate import Evaluation
from emergence.answering.finetune_result import SearchResult
from emergence.answering.probe_validity import ProbeValidity
from emergence.experiment.listing import RunSummary
from emergence.files import to_json
from emergence.findings.ablation import Ablation, AblationCell
from emergence.findings.scale_curve import ScaleCurve, ScaleFit, ScalePoint
from emergence.findings.snapshot_curve import CurvePoint, EmergenceCurve, Threshold
from emergence.findings.table import Row
from emergence.findings.two_by_two import Grid
from emergence.findings.verdict import FamilyFinding, Verdict
from emergence.measures import mirage
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import Claim, FamilyGain, ScoreGains
from emergence.measures.curves import CurveFit
from emergence.measures.emergence_score import EmergenceScore, TwoByTwo
from emergence.measures.equivalence import Equivalence
from emergence.measures.paired import PairedComparison
from emergence.measures.probe_validity import DescriptionLength
from emergence.measures.ratio import Fieller
from emergence.measures.readings import Reading, ScaleReading
from emergence.measures.seed_mixture import SeedMixture
from emergence.measures.thresholds import Break
from emergence.plain import plain
from emergence.studies.snapshots.result import ProbedSnapshot
from emergence.sweep.graph import Status
from emergence.training.language_model_eval import LanguageModelLoss

KINDS = [
    Ablation, AblationCell, Break, Claim, CurveFit, CurvePoint, DescriptionLength, EmergenceCurve, EmergenceScore,
    Equivalence, Estimate, Evaluation, FamilyFinding, FamilyGain, Fieller, Grid, LanguageModelLoss, PairedComparison,
    ProbeValidity, ProbedSnapshot, Reading, Row, RunSummary, ScaleCurve, ScaleFit, ScalePoint, ScaleReading, ScoreGains,
    SearchResult, SeedMixture, Status, Threshold, TwoByTwo, Verdict, mirage.MetricBreak, mirage.Diagnosis,
]  # fmt: skip


STORED = Path(__file__).with_name("stored_results.txt")


class Example:
    """Values of any type, the same ones in every run; some numbers are not finite."""

    def __init__(self, *, is_full: bool) -> None:
        self.is_full = is_full
        self.numbers: Iterator[float] = itertools.cycle([0.25, math.nan, -1.5, math.inf, 3.0])
        self.whole = itertools.count(1)

    def of(self, kind: Any, name: str = "") -> Any:
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            chosen = [arg for arg in args if arg is not type(None)] if self.is_full else [args[-1]]
            return None if chosen == [type(None)] else self.of(chosen[0], name)
        if name == "updated" and kind is float:
            return 1e9  # a date
        if origin is Literal:
            return args[0]
        if origin is tuple:
            kinds = (args[0],) * (1 + self.is_full) if args[-1] is ... else args
            return tuple(self.of(each, name) for each in kinds)
        if origin in (dict, Mapping):
            return {self.of(args[0], f"{name}_key"): self.of(args[1], name)}
        if origin in (list, Sequence):
            return [self.of(args[0], name)] if origin is list else (self.of(args[0], name),)
        if origin is np.ndarray:
            return np.array([next(self.numbers), next(self.numbers)])
        if dataclasses.is_dataclass(kind):
            hints = get_type_hints(kind)
            return kind(**{f.name: self.of(hints[f.name], f.name) for f in dataclasses.fields(kind)})
        simple = {
            float: lambda: next(self.numbers),
            int: lambda: next(self.whole),
            str: lambda: name,
            bool: lambda: True,
        }
        return simple[kind]() if kind in simple else {"any": (1, next(self.numbers))}


def stored() -> Iterator[str]:
    """A line for each kind with everything it can hold, and one with as little as it can."""
    for kind in KINDS:
        for is_full in (True, False):
            name = f"{kind.__module__.rsplit('.', 1)[1]}.{kind.__name__} {'full' if is_full else 'bare'}"
            yield f"{name} {to_json(Example(is_full=is_full).of(kind))}"


def test_every_kind_of_result_is_stored_as_ever() -> None:
    """After a change on purpose ``python tests/test_plain.py`` writes the file again; look at its difference."""
    assert list(stored()) == STORED.read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class Inner:
    values: tuple[float, ...]
    where: Path


@dataclass(frozen=True)
class Outer:
    inner: Mapping[int, Inner]
    array: Any
    own: Any = None


class Renamed:
    def to_dict(self) -> dict[str, Any]:
        return {"other_name": np.float64(math.inf), "inner": Inner((), Path("b"))}


def test_plain_goes_all_the_way_down() -> None:
    inner = {"3": {"values": [0.5, None], "where": "a/b"}}
    array = np.array([[1, 2]], dtype=np.int16)
    found = plain(Outer({3: Inner((np.float32(0.5), math.nan), Path("a/b"))}, array, Renamed()))
    assert found == {
        "inner": inner,
        "array": [[1, 2]],
        "own": {"other_name": None, "inner": {"values": [], "where": "b"}},
    }
    assert type(found["inner"]["3"]["values"][0]) is float and list(found) == ["inner", "array", "own"]


@pytest.mark.parametrize("value", [{1.5: "a"}, {True: 1}, {"a": object()}, [b"bytes"], {"a": {1, 2}}])
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        plain(value)


if __name__ == "__main__":
    STORED.write_text("".join(f"{line}\n" for line in stored()), encoding="utf-8")
