"""The numbers behind every figure: a folder of runs in, one table a figure out. No drawing.

A :class:`Chart` holds all that is drawn, so the CSV written from its rows is the figure's data, not a copy
made elsewhere. What cannot be drawn is returned with its reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emergence.analysis.comparable import ComparableSet
from emergence.analysis.data_ablation import without_order
from emergence.analysis.figure_runs import ResultsFolder, RunOnDisk
from emergence.analysis.grid import HEADLINE, RunScores
from emergence.analysis.results import Found
from emergence.analysis.set_scores import POINT, SetScores, words_of
from emergence.errors import RunDirectoryError
from emergence.measures.bootstrap import N_BOOT, Estimate, bootstrap_means
from emergence.measures.emergence_score import CELLS, FROZEN, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.measures.measured_coverage import units_of
from emergence.measures.readings import SCORE_NAMES, describe_score
from emergence.measures.resampling import ClusterTable

Row = dict[str, Any]
#: Cells of the row between pretrained and random: a trunk pretrained on shuffled text.
SHUFFLED_CELLS = {FULL: "shuffled_full", FROZEN: "shuffled_frozen"}
#: Cells in words, in the order of bars.
CELL_NAMES = {
    FULL: "pretrained, all weights trained",
    FROZEN: "pretrained, frozen",
    "shuffled_full": "shuffled text, all weights trained",
    "shuffled_frozen": "shuffled text, frozen",
    RANDOM_FULL: "random, all weights trained",
    RANDOM_FROZEN: "random, frozen",
}
_SHUFFLED_WORDS = " Shuffled text: pretrained on the same text with the words of each sentence in random order."
NO_MODEL, WORDS_ALONE = "no_model", "words_alone"
#: Mark of a curve's scores by asked role. Not drawn: eight curves a family would hide each other; a table has them.
BY_ROLE = "by_role"
#: A group of questions smaller than this is in the data, but has no bar.
LEAST_QUESTIONS = 10


@dataclass(frozen=True)
class Chart:
    """One figure before it is drawn.

    Attributes:
        name: File name without ending. kind: Which drawing.
        title: What it shows. caption: What a reader must know to read it: n, intervals, definitions.
        rows: The data, one dictionary a mark; all have the same keys.
    """

    name: str
    kind: str
    title: str
    caption: str
    rows: tuple[Row, ...]


@dataclass
class Charts:
    """Charts, and what was left out of them: name of a figure or run, reason."""

    charts: list[Chart] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, kind: str, title: str, caption: str, rows: Sequence[Row], otherwise: str) -> None:
        """The chart, or without rows the reason why there is none."""
        if rows:
            self.charts.append(Chart(name, kind, title, caption, tuple(rows)))
        else:
            self.skipped.append((name, otherwise))

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append((name, reason))


def prepare_charts(folder: ResultsFolder, *, n_boot: int = N_BOOT) -> Charts:
    """Every chart that the runs of a folder allow.

    Args:
        folder: From :func:`emergence.analysis.figure_runs.read_folder`.
        n_boot: Bootstrap resamples of the groups by role and voice.
    """
    out = Charts(skipped=[(item.name, item.reason) for item in folder.skipped])
    out.skipped += [("kept apart", sentence) for sentence in folder.grouping.mixed]
    out.skipped += [(found.comparable.label, note) for found in folder.scored for note in found.notes]
    _pretraining(folder, out)
    _finetuning(folder, out)
    _two_by_two(folder, out)
    _emergence(folder, out)
    _probing(folder, out)
    _few_shot(folder, out)
    _breakdowns(folder, out, n_boot)
    _documented(folder, out)
    return out


def slug(label: str) -> str:
    """A set's label as part of a file name: ``tiny_wiki``."""
    return re.sub(r"[^a-z0-9.]+", "_", label.lower()).strip("_")


# Training curves ---------------------------------------------------------------------------------


def _histories(folder: ResultsFolder, out: Charts) -> Iterator[tuple[RunOnDisk, list[Row]]]:
    """Runs with their history, in the order of sets; those in none (unfinished, say) last."""
    for found in folder.runs:
        try:
            yield found, found.run.read_curves()
        except RunDirectoryError as error:
            out.skip(f"training of {found.name}", str(error))


def _pretraining(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    drawn: dict[str, str] = {}
    for found, history in _histories(folder, out):
        spec = found.run.spec
        if not any(line["kind"].startswith("pretrain_") for line in history):
            continue
        if drawn.setdefault(spec.pretrain_id, found.name) != found.name:
            out.skip(f"pretraining of {found.name}", f"the same as that of {drawn[spec.pretrain_id]}")
            continue
        for line in history:
            which = {"pretrain_step": "train", "pretrain_evaluation": "validation"}.get(line["kind"])
            loss = line.get("loss") if which == "train" else line.get("validation_loss")
            if which and loss is not None:
                where: Row = {"setting": found.label, "run": found.name, "seed": spec.seed}
                rows.append({**where, "split": which, "step": line["step"], "tokens": line["tokens"], "loss": loss})
    caption = (
        "Cross-entropy of the next token against tokens seen. Thin: training batches. Thick, with markers: "
        "held-out text; dotted: before the first step."
    )
    out.add("pretraining_loss", "pretraining", "Pretraining", caption, rows, "no run here pretrained a trunk")


def _finetuning(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    main = {found.comparable.label for found in folder.main}
    for found, history in _histories(folder, out):
        spec = found.run.spec
        if not found.is_drawn or (spec.finetune_samples is not None and found.label not in main):
            continue
        for line in history:
            if line["kind"] != "finetune_epoch":
                continue
            values = {key: line[key] for key in ("epoch", "train_loss", "validation_loss", "validation_f1")}
            rows.append({"setting": found.label, "cell": found.cell, "run": found.name, "seed": spec.seed, **values})
    caption = (
        "Finetuning with all weights trained, by epoch. Left: negative log-likelihood of the answer span; "
        "thin without markers: training. Right: token F1 on validation questions."
    )
    out.add("finetuning", "finetuning", "Finetuning", caption, rows, "no run here finetuned all weights")


# The 2x2 and the score ---------------------------------------------------------------------------


def _two_by_two(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    twins = without_order(folder.grouping)
    shown_elsewhere = {id(twin) for twin in twins.values()}
    for found in (s for s in folder.settings if id(s.comparable) not in shown_elsewhere):
        label = found.comparable.label
        mine = [_bar(label, cell, found.headline.f1[cell]) for cell in CELLS if cell in found.headline.f1]
        twin = twins.get(id(found.comparable))
        f1 = folder.scores_of(twin).headline.f1 if twin else {}
        mine += [_bar(label, name, f1[cell]) for cell, name in SHUFFLED_CELLS.items() if cell in f1]
        grid = found.headline.grid
        for row in mine:
            row |= {"n_sentences": grid.n_sentences, "n_documents": grid.n_documents} if grid else {}
        rows += mine
        floor = no_model_floor(found.comparable)
        if floor and mine:
            rows.append({**dict.fromkeys(mine[0]), "setting": label, "cell": NO_MODEL, "f1": floor[1]})
        alone = words_of(found.comparable)
        if alone and mine:
            rows.append({**dict.fromkeys(mine[0]), **_bar(label, WORDS_ALONE, alone)})
    out.add(
        "two_by_two",
        "two_by_two",
        "Frozen and trained, pretrained and random",
        f"Token F1 on test questions ({_counts(rows)}). {_interval_words(rows)}"
        " Dashed: the best rule without a model; dotted: words and positions, trained without one."
        + (_SHUFFLED_WORDS if any(row["cell"] in SHUFFLED_CELLS.values() for row in rows) else ""),
        rows,
        "no finished run with test scores",
    )


def no_model_floor(comparable: ComparableSet) -> tuple[str, float] | None:
    """Name and test F1 of the best rule without a model, where a run of the set measured it."""
    for item in comparable.results():
        scores = item.result.test_scores or {}
        if scores.get("floor"):
            return scores["floor"], float(scores["baselines"][scores["floor"]]["f1_tokens"]["point"])
    return None


def _bar(label: str, cell: str, estimate: Estimate, **more: Any) -> Row:
    return {
        "setting": label,
        **more,
        "cell": cell,
        "f1": estimate.point,
        "lo": estimate.lo,
        "hi": estimate.hi,
        "level": estimate.level,
        "n_questions": estimate.n,
        "n_sentences": estimate.n_clusters,
        "n_seeds": estimate.n_seeds,
    }


def _counts(rows: Sequence[Row]) -> str:
    """``tiny: 1,200 questions of 300 sentences, 20 documents; ...``"""
    found: dict[str, tuple[int, str]] = {}
    for row in rows:
        if row.get("n_questions"):
            found.setdefault(
                row["setting"],
                (row["n_questions"], units_of(row["n_sentences"], row.get("n_documents"))),
            )
    return "; ".join(f"{label}: {n:,} questions of {units}" for label, (n, units) in found.items())


def _interval_words(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    level = next(row["level"] for row in rows if row.get("level"))
    seeds = sorted({row["n_seeds"] for row in rows if row.get("n_seeds")})
    n = "one seed" if seeds == [1] else f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    return f"Bars: {level:.0%} intervals, sentences resampled ({n})."


def _emergence(folder: ResultsFolder, out: Charts) -> None:
    series = folder.grouping.over_sizes()
    drawn = False
    for label, members in series.items():
        rows = [row for s in members for row in _score_rows(folder.scores_of(s), out)]
        if len({row["setting"] for row in rows}) < 2:
            continue
        name = "emergence_by_scale" + (f"_{slug(label)}" if len(series) > 1 else "")
        caption = (
            "Score S = (frozen - floor) / (full - floor) of each size, against non-embedding parameters and "
            f"against pretraining loss on held-out text (axis reversed). {_interval_words(rows)} The emergence score "
            "has the random trunk probed frozen as floor, the from-scratch score the random trunk trained whole."
        )
        out.add(name, "emergence", f"Emergence by scale: {label}", caption, rows, "")
        drawn = True
    if not drawn:
        out.skip("emergence_by_scale", "it takes two sizes with an emergence score that differ in nothing else")


def _score_rows(found: SetScores, out: Charts) -> Iterator[Row]:
    """The score of one size against each floor."""
    comparable, scores = found.comparable, found.headline
    if scores.basis in (None, POINT) or comparable.n_params is None:
        return
    where = {"setting": comparable.base.size, "non_embedding": comparable.n_params, "pretraining_loss": _loss(found)}
    for score in (scores.probe, scores.scratch):
        if score is None:
            continue
        e = score.score
        if not score.is_meaningful:
            out.skip(f"{SCORE_NAMES[score.floor]} of {comparable.label}", describe_score(score))
            continue
        ends = {"score": e.point, "lo": e.lo, "hi": e.hi, "level": e.level, "method": e.method}
        yield {**where, "floor": score.floor, **ends, "n_seeds": e.n_seeds, "flags": " ".join(score.flags)}


def _loss(found: SetScores) -> float:
    """Held-out loss of the pretrained trunks, nats per token, averaged over the seeds."""
    full = [item.result for item in found.comparable.cells.get(FULL, ())]
    pretraining = [(r.pretraining or {}).get("test") or (r.pretraining or {}).get("validation") for r in full]
    losses = [p["nats_per_token"] for p in pretraining if p]
    return float(np.mean(losses)) if losses else math.nan


# Probes by layer ---------------------------------------------------------------------------------


def _probing(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    for found in folder.settings:
        label, mine = found.comparable.label, []
        for cell in (FROZEN, RANDOM_FROZEN):
            for item in found.comparable.cells.get(cell, ()):
                for fit in (item.result.probes or {}).get("fits", ()):
                    keys = ("family", "layer", "validation_f1", "validation_em", "n_trainable", "converged")
                    facts = {key: fit[key] for key in keys}
                    mine.append({"setting": label, "cell": cell, "seed": item.result.seed, **facts})
        rows += mine
        if mine and not any(row["cell"] == RANDOM_FROZEN for row in mine):
            out.skip(f"floor of probing_layers: {label}", "no random trunk was probed (--random-baseline)")
    caption = (
        "Validation token F1 of probes on frozen states by layer (0: embeddings). Filled, solid: pretrained. "
        "Open, dashed: random trunk. Bands: range over seeds."
    )
    out.add("probing_layers", "probing", "Probes by layer", caption, rows, "no finished run with a frozen trunk")


# Few-shot ----------------------------------------------------------------------------------------


def _few_shot(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    for label, members in folder.grouping.over_samples().items():
        mine = [
            row
            for s in members
            for cell in CELLS
            for item in s.cells.get(cell, ())
            if (row := _few_shot_row(label, cell, item))
        ]
        if len({row["samples"] for row in mine if row["limited"]}) >= 2:
            rows += sorted(mine, key=lambda row: (CELLS.index(row["cell"]), row["samples"], row["seed"]))
    caption = (
        f"Test token F1 against training questions. {_interval_words(rows)} "
        "Where a number of questions was run with several seeds: their mean, and a band over their range."
    )
    reason = "it takes runs with at least two values of --finetune-samples"
    out.add("few_shot", "few_shot", "Few-shot learning", caption, rows, reason)


def _few_shot_row(label: str, cell: str, item: Found) -> Row | None:
    estimate = item.estimate("test", "f1_tokens") if item.spec else None
    limit, available = (
        item.result.finetune_samples_limit,
        (item.result.qasrl_train_filtering or {}).get("valid_examples"),
    )
    known = [n for n in (limit, available) if n is not None]
    if estimate is None or not known:
        return None
    row = _bar(label, cell, estimate)
    return {**row, "samples": min(known), "limited": limit is not None, "seed": item.result.seed}


# By role and voice -------------------------------------------------------------------------------


def _breakdowns(folder: ResultsFolder, out: Charts, n_boot: int) -> None:
    if not folder.settings:
        out.skip("roles", "no finished run with predictions")
    for found in folder.settings:
        label = found.comparable.label
        runs = [(c, item.scores) for c in CELLS for item in found.comparable.cells.get(c, ()) if item.scores]
        rows = _breakdown(label, runs, n_boot) if runs else []
        caption = (
            f"Token F1 by {_role_words(rows)} and the voice of the predicate; n: test questions. "
            f"{_interval_words(rows)} Groups of fewer than {LEAST_QUESTIONS} are in the data only."
        )
        name, title = f"roles_{slug(label)}", f"By role and voice: {label}"
        out.add(name, "breakdown", title, caption, rows, "no finished run with predictions, or none that tells roles")


def _breakdown(label: str, runs: Sequence[tuple[str, RunScores]], n_boot: int) -> list[Row]:
    """Each group of questions in each cell, over the seeds, on the questions of the first run."""
    first = runs[0][1]
    facts = {row["id"]: row for row in first.run.read_predictions()}
    if not all("role" in facts[question] for question in first.ids):
        return []
    # Predictions older than the asked role have the wh-word alone, and never a mixture of both.
    key = "asked_role" if all("asked_role" in facts[question] for question in first.ids) else "role"
    labels = {
        key: [str(facts[q][key] or "other") for q in first.ids],
        "voice": [{True: "passive", False: "active", None: "unknown"}[facts[q].get("passive")] for q in first.ids],
    }
    columns: dict[str, list[np.ndarray]] = {}
    seeds: dict[str, list[str]] = {}
    for cell, run in runs:
        place = {question: i for i, question in enumerate(run.ids)}
        if set(place) == set(first.ids):
            f1 = run.scores[HEADLINE]["f1_tokens"]
            columns.setdefault(cell, []).append(f1[[place[question] for question in first.ids]])
            seeds.setdefault(cell, []).append(run.seed_label)
    rows = []
    for kind, values in labels.items():
        names, counts = np.unique(values, return_counts=True)
        for name in names[np.lexsort((names, -counts))]:
            where = np.flatnonzero(np.array(values) == name)
            clusters = np.array(first.sentences)[where]
            table = ClusterTable.from_questions(
                {cell: np.stack(columns[cell])[:, where] for cell in CELLS if cell in columns},
                clusters,
                {cell: [f"{cell}:{seed}" for seed in seeds[cell]] for cell in columns},
            )
            means = bootstrap_means(table, n_boot=n_boot)
            rows += [_bar(label, cell, mean, by=kind, group=str(name)) for cell, mean in means.items()]
    for row in rows:
        row["n_seeds"] = len(seeds[row["cell"]])
    return rows


def _role_words(rows: Sequence[Row]) -> str:
    """What the groups are."""
    if any(row["by"] == "asked_role" for row in rows):
        return "the role that the question asks for (from its slots and voice)"
    return "the question's wh-word (these runs are older than asked roles)"


# Results with the guide's keys alone -------------------------------------------------------------


def _documented(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    for found in folder.scored:
        comparable = found.comparable
        if not comparable.is_documented_format:
            continue
        if comparable.base.samples is not None:
            out.skip(comparable.label, "older format, few-shot: its seed is unknown")
            continue
        for cell in CELLS:
            if cell in found.headline.f1:
                f1 = found.headline.f1[cell].point
                rows.append({"setting": comparable.label, "cell": cell, "f1": f1, "lo": math.nan, "hi": math.nan})
    caption = (
        "Token F1 on validation questions, from results files that hold the guide's keys alone: no intervals, and "
        "nothing says whether the runs saw the same questions."
    )
    if rows:
        out.add("validation_f1", "two_by_two", "Validation F1, older results files", caption, rows, "")
