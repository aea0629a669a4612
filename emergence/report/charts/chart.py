"""What a kind of figure is, and every chart that a folder allows. Nothing is drawn here; ``drawing`` does that.

A :class:`Chart` holds all that is drawn, so the CSV written from its rows is the figure's data, not a copy made
elsewhere. What cannot be drawn is named with its reason.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from emergence.findings.folder import ResultsFolder
from emergence.measures.bootstrap import N_BOOT
from emergence.report import charts
from emergence.report.blocks import Block

Row: TypeAlias = dict[str, Any]
Kept = TypeVar("Kept")
#: ``matplotlib.figure.Figure``, which nobody needs who draws nothing.
Figure: TypeAlias = Any
#: Anchors of the report's sections that show figures.
Place = Literal[
    "verdict",
    "scale",
    "grid",
    "probes",
    "roles",
    "few-shot",
    "prompted",
    "training",
    "curve",
    "laws",
    "ablation",
    "order",
    "pairs",
    "information",
    "units",
    "cka",
    "others",
]
#: Modules beside the kinds.
SHARED = ("chart", "drawing", "rows")
#: At most this many series are told one by one. The others are counted.
_MOST = 12


def _no_tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    return ()


@dataclass(frozen=True)
class ChartKind:
    """All that the program knows of a kind of figure.

    Attributes:
        name: The name of its module, with which names of its charts begin.
        rank: Its place among the figures; the lowest comes first.
        place: The section of the report that shows it.
        collect: Adds a folder's charts to the given ones, or the reason why there is none. The last argument is the
            number of bootstrap resamples.
        draw: Draws rows on a figure whose width is set. It chooses the height itself.
        series: The rows in words, a phrase for each series, for readers who cannot see the figure.
        is_narrow: Whether one column of a paper holds the figure. Wider ones are more than a phone shows legibly.
        tables: What the report says below the figure, given the chart and the reasons for what its kind left out.
    """

    name: str
    rank: int
    place: Place
    collect: Callable[[ResultsFolder, Charts, int], None]
    draw: Callable[[Figure, Sequence[Row]], None]
    series: Callable[[Sequence[Row]], list[str]]
    is_narrow: Callable[[Sequence[Row]], bool]
    tables: Callable[[Chart, Sequence[str]], Iterable[Block]] = _no_tables

    def __post_init__(self) -> None:
        if self.place not in get_args(Place):
            raise ValueError(f"{self.name}: the report has no section {self.place}")


@dataclass(frozen=True)
class Chart:
    """One figure before it is drawn.

    Attributes:
        name: File name without ending. kind: The kind, which draws and describes it.
        title: What it shows. caption: What a reader must know to read it: n, intervals, definitions.
        rows: The data, one dictionary for each mark. All have the same keys.
    """

    name: str
    kind: ChartKind
    title: str
    caption: str
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if not (self.title.strip() and self.caption.strip()):
            raise ValueError(f"{self.name}: a figure needs a title and a caption")

    @property
    def is_wide(self) -> bool:
        """Whether the figure spans two columns of a paper."""
        return not self.kind.is_narrow(self.rows)

    @property
    def alt(self) -> str:
        """One or two sentences with the figure's numbers, or their range where there are many."""
        phrases = list(dict.fromkeys(self.kind.series(self.rows)))
        if not phrases:
            return f"{self.title}. {len(self.rows):,} values, in the data file."
        more = f"; and {len(phrases) - _MOST} more, see the data file" if len(phrases) > _MOST else ""
        return f"{self.title}. {'; '.join(phrases[:_MOST])}{more}."


@dataclass
class Charts:
    """Charts, (name of a figure or run, reason) of what was left out, and (label, note) on intervals.

    ``read`` keeps what a reader of studies found, for the other kinds that draw it.
    """

    charts: list[Chart] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    read: dict[Any, Any] = field(default_factory=dict)

    def add(
        self, kind: ChartKind, title: str, caption: str, rows: Sequence[Row], otherwise: str = "", *, of: str = ""
    ) -> None:
        """Add a chart, or without rows its ``reason`` if there is one. ``of`` tells charts of one kind apart."""
        name = f"{kind.name}_{of}" if of else kind.name
        if rows:
            twins = sum(chart.name == name or chart.name.startswith(f"{name}__") for chart in self.charts)
            name = f"{name}__{twins + 1}" if twins else name
            self.charts.append(Chart(name, kind, title, caption, tuple(rows)))
        elif otherwise:
            self.skip(name, otherwise)

    def take(self, name: str, read: tuple[list[Kept], Iterable[tuple[str, str]]], otherwise: str = "") -> list[Kept]:
        """What could be read. The rest is skipped by its place, and the figure ``name`` if there is nothing."""
        found, problems = read
        for place, reason in problems:
            self.skip(place, reason)
        if not found and otherwise:
            self.skip(name, otherwise)
        return found

    def skip(self, name: str, reason: str) -> None:
        if (name, reason) not in self.skipped:  # several kinds read a history: a damaged one is named once
            self.skipped.append((name, reason))

    def reason(self, names: tuple[str, ...]) -> str | None:
        """Why the first missing figure whose name begins with one of ``names`` is missing."""
        return next((why for name, why in self.skipped if name.startswith(names)), None)


def chart_kinds() -> tuple[ChartKind, ...]:
    """Every kind of figure, by rank: the ``KIND`` of each module of this package.

    Raises:
        AttributeError: A module has none.
    """
    names = [module.name for module in pkgutil.iter_modules(charts.__path__) if module.name not in SHARED]
    kinds = [importlib.import_module(f"{charts.__name__}.{name}").KIND for name in names]
    return tuple(sorted(kinds, key=lambda kind: (kind.rank, kind.name)))


def all_charts(folder: ResultsFolder, *, n_boot: int = N_BOOT) -> Charts:
    """Every chart that the runs of a folder allow.

    Args:
        folder: From :func:`emergence.findings.folder.read_folder`.
        n_boot: Bootstrap resamples of what the folder's scores do not hold already.
    """
    charts = Charts(skipped=[(item.name, item.reason) for item in folder.skipped])
    charts.skipped += [("kept apart", sentence) for sentence in folder.grouping.mixed]
    charts.notes += [(scores.comparable.label, note) for scores in folder.scored for note in scores.notes]
    for kind in chart_kinds():
        kind.collect(folder, charts, n_boot)
    return charts
