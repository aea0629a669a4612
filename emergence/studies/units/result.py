"""What a study of units found, as JSON and npz; read without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emergence.measures.bootstrap import Estimate
from emergence.measures.selectivity import Trend, overlap_of, trend_over
from emergence.studies.study import Arrays, StudyFiles
from emergence.wording import aligned, counted, format_estimate

FILES = StudyFiles(
    name="units", version=2, what="a study of units", again="run emergence units again", kind="emergence-units"
)

Row = dict[str, Any]
#: Attributions that go with true cuts less than this tell little, and random units so much less active are no match.
LEAST_RANK_CORRELATION, LEAST_MATCH = 0.3, 0.8

#: Shares of all units of a kind that are cut. The second-largest chooses the units that are listed and compared.
SHARES = (0.005, 0.01, 0.02, 0.05)
MAIN_SHARE = 0.02
#: What is cut where labels are shuffled.
SHUFFLED = "shuffled labels"
KIND_NAMES = {"mlp": "MLP neurons", "head": "attention heads"}
#: The three counts of concentration, in words.
COUNTS = {
    "half": "units that carry half of what all carry (F1, by ablation)",
    "participation": "k where k units have equal attributions, without what is noise; - where halves disagree",
    "probe": "units that give a probe nine tenths of the most that any number of them gives it",
}


@dataclass(frozen=True, eq=False)
class UnitResult:
    """What a study of one run or model found.

    Attributes:
        subject: The run or model: name, kind, and of a run its size, seed, series and parameters.
        settings: Roles, kinds, questions, and what was read.
        trunks: The main trunk, its random twin, then snapshots in the order of training.
    """

    subject: Row
    settings: Row
    trunks: tuple[Row, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.settings["data"]["roles"])

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.settings["kinds"])

    @property
    def main(self) -> Row:
        return self.trunks[0]

    @property
    def random(self) -> Row:
        return self.trunks[1]

    @property
    def path_of_training(self) -> tuple[Row, ...]:
        """Trained trunks in the order of training."""
        return tuple(sorted((t for t in self.trunks if t["kind"] == "trained"), key=lambda t: int(t["step"])))

    def count(self, trunk: Row, kind: str, name: str, what: str = "n") -> dict[str, float]:
        """One of :data:`COUNTS` by role; nan where it is undefined. ``what`` is ``n`` or ``share``."""
        rows = trunk["units"][kind]["concentration"]
        return {row["role"]: _number(row[name][what]) for row in rows}

    def by_role(self, kind: str, name: str) -> dict[str, tuple[list[float], list[float]]]:
        """For each role log10 of the step of every trained trunk, and its count."""
        path = self.path_of_training
        steps = [math.log10(max(int(t["step"]), 1)) for t in path]
        counts = [self.count(t, kind, name) for t in path]
        return {role: (steps, [each[role] for each in counts]) for role in self.roles}

    def training_trend(self, kind: str, name: str) -> Trend:
        """How a count goes with training, in this seed alone."""
        return trend_over([list(self.by_role(kind, name).values())])

    def ablations(self, trunk: Row, kind: str, share: float = MAIN_SHARE, how: str = "mean") -> list[Row]:
        """The rows of one share, by what was cut."""
        rows = trunk["units"][kind]["ablation"]
        return [row for row in rows if row["share"] == share and row["with"] == how]

    def successive(self, kind: str) -> list[Row]:
        """Units that successive trained trunks share among the best of each role, against chance."""
        found = []
        for before, after in zip(self.path_of_training, self.path_of_training[1:], strict=False):
            for one, other in zip(*(t["units"][kind]["selectivity"] for t in (before, after)), strict=True):
                shared = overlap_of(one["units"], other["units"], before["units"][kind]["per_block"])
                told = {"from": before["name"], "to": after["name"], "role": one["role"], "n": len(one["units"])}
                found.append({**told, "shared": shared.shared, "expected": shared.expected, "p": shared.p})
        return found

    def to_dict(self) -> Row:
        return {
            **FILES.header,
            "subject": self.subject,
            "settings": self.settings,
            "counts": COUNTS,
            "trunks": list(self.trunks),
            "successive": {kind: self.successive(kind) for kind in self.kinds},
        }

    def arrays(self) -> Arrays:
        """For each trunk, kind and count the numbers of units by role."""
        return {
            f"{trunk['name']}/{kind}/{name}": np.array(list(self.count(trunk, kind, name).values()))
            for trunk in self.trunks
            for kind in self.kinds
            for name in COUNTS
        }

    # Words ---------------------------------------------------------------------------------------

    def text(self) -> str:
        """For a terminal: per kind of units what tells each role, what cutting it costs, and the three counts."""
        data, f1 = self.settings["data"], self.main["f1"]
        mean = float(np.mean([row["point"] for row in f1.values()]))
        lines = [
            f"{self.subject['name']} on {data['name']}: {counted(len(self.roles), 'role')}, "
            f"{data['questions']['b']} questions of half B, bilinear probe of the last level, mean F1 over roles "
            f"{mean:.3f}; random twin in brackets",
        ]
        if data["left_out"]:
            lines.append("left out, too few: " + ", ".join(sorted(data["left_out"])))
        for kind in self.kinds:
            lines += ["", *self._kind_lines(kind)]
        return "\n".join(lines)

    def _kind_lines(self, kind: str) -> list[str]:
        here, twin = self.main["units"][kind], self.random["units"][kind]
        n = here["n_units"]
        lines = [
            f"{KIND_NAMES[kind]} ({n:,}): selective on half A and confirmed on half B (false discoveries 5%), without "
            "position, frequency and part of speech; AUC of the best (raw: with them)"
        ]
        table = [["role", "selective", "shuffled", "best AUC", "(raw)", *COUNTS]]
        for i, role in enumerate(self.roles):
            one, other = here["selectivity"][i], twin["selectivity"][i]
            pairs = ([self.count(trunk, kind, name)[role] for trunk in self.trunks[:2]] for name in COUNTS)
            counts = [f"{_shown(mine)} [{_shown(random)}]" for mine, random in pairs]
            told = [f"{one['confirmed']} [{other['confirmed']}]", str(one["confirmed_shuffled"])]
            best = [f"{one['best']:.2f} [{other['best']:.2f}]", f"({one['best_raw']:.2f})"]
            table.append([role, *told, *best, *counts])
        lines += [
            *aligned(table),
            "In brackets the random twin: what it has as well is the words' own. A dash: the count is undefined.",
            *(f"{name}: {words}" for name, words in COUNTS.items()),
            "",
        ]
        lines += self._matrix_lines(kind)
        check = here["check"]
        if check:
            lines.append(
                f"attributions against cutting {check['n']} units one by one: rank correlation "
                f"{_shown(check['rank_correlation'], 2)}, of gradients half way to the means "
                f"{_shown(check['rank_correlation_halfway'], 2)}"
            )
            if not (_number(check["rank_correlation"]) >= LEAST_RANK_CORRELATION):
                lines.append(f"  below {LEAST_RANK_CORRELATION}: participation tells little here")
        return [*lines, *self._training_lines(kind)]

    def _matrix_lines(self, kind: str) -> list[str]:
        rows = self.ablations(self.main, kind)
        n, share = counted(rows[0]["n"], "unit"), rows[0]["n"] / self.main["units"][kind]["n_units"]
        lines = [
            f"F1 lost beyond matched random units where the {n} most selective for a row's role give their mean "
            f"({share:.1%}), by asked role; intervals count what another random set would differ by:"
        ]
        table = [["cut", *self.roles, "loss, nats"]]
        for row in rows:
            effects = [format_estimate(Estimate.from_dict(row["effects"][role]), signed=True) for role in self.roles]
            table.append([row["cut"], *effects, f"{row['loss']:+.3f}"])
        lines += aligned(table)
        ratios = [row["matched_size"] for row in rows if row["matched_size"] is not None]
        if ratios and min(ratios) < LEAST_MATCH:
            lines.append(f"matched units are {min(ratios):.2f} times as active at least: no match at the extremes")
        return lines

    def _training_lines(self, kind: str) -> list[str]:
        if len(self.path_of_training) < 2:
            return []
        lines = []
        for name in COUNTS:
            trend = self.training_trend(kind, name)
            lines.append(
                f"over training, {name}: times {_shown(2**trend.change.point, 2)}, Kendall p {_shown(trend.p, 3)}"
            )
        shared = self.successive(kind)
        kept, expected = (float(np.mean([row[key] for row in shared])) for key in ("shared", "expected"))
        n = shared[0]["n"]
        lines.append(f"best units that successive trunks share: {kept:.1f} of {n} on average, {expected:.1f} by chance")
        return [*lines, "a verdict takes three seeds: emergence report on their folder"]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _shown(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def result_of(subject: Row, settings: Row, trunks: Sequence[Row]) -> UnitResult:
    """The result of trunks in their order."""
    return UnitResult(subject, settings, tuple(trunks))


def read_result(folder: Path) -> UnitResult:
    """The result in ``folder``. The errors are those of :meth:`StudyFiles.read`."""
    return FILES.read(folder, _from_files)


def _from_files(content: Row, arrays: Arrays) -> UnitResult:
    result = result_of(content["subject"], content["settings"], content["trunks"])
    if any(not np.array_equal(arrays[name], mine, equal_nan=True) for name, mine in result.arrays().items()):
        raise ValueError("the counts are not those of its arrays")
    result.text()  # reads every number that somebody asks for, so that what is malformed is known here
    return result
