"""The numbers behind every figure: a folder of runs in, one table a figure out. No drawing.

A :class:`Chart` holds all that is drawn, so the CSV written from its rows is the figure's data, not a copy
made elsewhere. What cannot be drawn is returned with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emergence.analysis.figure_runs import FoundRun, ResultsFolder, Setting, run_label
from emergence.analysis.grid import HEADLINE, Grid, RunScores, build_grid
from emergence.errors import DataError, RunDirectoryError
from emergence.measures.bootstrap import N_BOOT, Estimate, bootstrap_means
from emergence.measures.emergence_score import CELLS, FROZEN, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.measures.resampling import ClusterTable

Row = dict[str, Any]
#: Cells in words.
CELL_NAMES = {
    FULL: "pretrained, all weights trained",
    FROZEN: "pretrained, frozen",
    RANDOM_FULL: "random, all weights trained",
    RANDOM_FROZEN: "random, frozen",
}
NO_MODEL = "no_model"
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
        n_boot: Bootstrap resamples.
    """
    out = Charts(skipped=[(name, why) for name, _, why in (problem.partition(": ") for problem in folder.problems)])
    grids = _grids(folder, out, n_boot)
    _pretraining(folder, out)
    _finetuning(folder, out)
    _two_by_two(folder, grids, out)
    _emergence(folder, grids, out)
    _probing(folder, out)
    _few_shot(folder, out)
    _breakdowns(folder, out, n_boot)
    _documented(folder, out)
    return out


# Training curves ---------------------------------------------------------------------------------


def _histories(folder: ResultsFolder, out: Charts) -> Iterator[tuple[FoundRun, str, list[Row]]]:
    """Runs with their setting's label and history, in the order of settings; those in none (unfinished) last."""
    labels = {id(member): setting.label for setting in folder.settings for member in setting.members}
    order = {id(member): i for i, setting in enumerate(folder.settings) for member in setting.members}
    for found in sorted(folder.runs, key=lambda run: (order.get(id(run), len(order)), run.seed, run.cell != FULL)):
        if found.run is None or found.spec is None:
            continue
        try:
            history = found.run.read_history()
        except RunDirectoryError as error:
            out.skip(f"training of {found.name}", str(error))
            continue
        yield found, labels.get(id(found)) or run_label(found, found.spec.pretrain_data), history


def _pretraining(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    drawn: dict[str, str] = {}
    for found, label, history in _histories(folder, out):
        assert found.spec is not None
        if not any(line["kind"].startswith("pretrain_") for line in history):
            continue
        if drawn.setdefault(found.spec.pretrain_id, found.name) != found.name:
            out.skip(f"pretraining of {found.name}", f"the same as that of {drawn[found.spec.pretrain_id]}")
            continue
        for line in history:
            which = {"pretrain_step": "train", "pretrain_evaluation": "validation"}.get(line["kind"])
            loss = line.get("loss") if which == "train" else line.get("validation_loss")
            if which and loss is not None:
                where: Row = {"setting": label, "run": found.name, "seed": found.seed}
                rows.append({**where, "split": which, "step": line["step"], "tokens": line["tokens"], "loss": loss})
    caption = (
        "Cross-entropy of the next token against tokens seen. Thin: training batches. Thick, with markers: "
        "held-out text; dotted: before the first step."
    )
    out.add("pretraining_loss", "pretraining", "Pretraining", caption, rows, "no run here pretrained a trunk")


def _finetuning(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    for found, label, history in _histories(folder, out):
        for line in history:
            if line["kind"] != "finetune_epoch" or found.samples is not None:
                continue
            values = {key: line[key] for key in ("epoch", "train_loss", "validation_loss", "validation_f1")}
            rows.append({"setting": label, "cell": found.cell, "run": found.name, "seed": found.seed, **values})
    caption = (
        "Finetuning with all weights trained, by epoch. Left: negative log-likelihood of the answer span; "
        "thin without markers: training. Right: token F1 on validation questions."
    )
    out.add("finetuning", "finetuning", "Finetuning", caption, rows, "no run here finetuned all weights")


# The 2x2 and the score ---------------------------------------------------------------------------


def _grids(folder: ResultsFolder, out: Charts, n_boot: int) -> dict[str, Grid]:
    """The 2x2 of every setting that has one."""
    grids = {}
    for setting in folder.settings:
        runs = [member.scores for member in setting.all_questions() if member.scores]
        try:
            grids[setting.label] = build_grid(runs, n_boot=n_boot)
        except DataError as error:
            out.skip(f"emergence score of {setting.label}", str(error))
            continue
        for reason in grids[setting.label].left_out:
            out.skip(f"2x2 of {setting.label}", reason)
    return grids


def _two_by_two(folder: ResultsFolder, grids: Mapping[str, Grid], out: Charts) -> None:
    rows: list[Row] = []
    for setting in folder.settings:
        grid = grids.get(setting.label)
        cells = grid.analysis.cells if grid else _single_cells(setting)
        rows += [_bar(setting.label, cell, estimate) for cell, estimate in cells.items()]
        floor = grid.no_model_floor if grid else None
        if floor:
            rows.append({**dict.fromkeys(rows[-1]), "setting": setting.label, "cell": NO_MODEL, "f1": floor[1]})
    out.add(
        "two_by_two",
        "two_by_two",
        "Frozen and trained, pretrained and random",
        f"Token F1 on test questions ({_counts(rows)}). {_interval_words(rows)} Dashed: the best rule without a model.",
        rows,
        "no finished run with test scores",
    )


def _single_cells(setting: Setting) -> dict[str, Estimate]:
    """Each cell from the result of its first seed, where no 2x2 could be put together."""
    cells = {}
    for cell in CELLS:
        for member in setting.of_cell(cell):
            scores = (member.result.test_scores if member.result else None) or {}
            if "f1_tokens" in scores.get("scores", {}):
                cells[cell] = Estimate.from_dict(scores["scores"]["f1_tokens"])
                break
    return cells


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
    """``tiny: 1,200 questions of 300 sentences; ...``"""
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row.get("n_questions"):
            found.setdefault(row["setting"], (row["n_questions"], row["n_sentences"]))
    return "; ".join(f"{label}: {n:,} questions of {clusters:,} sentences" for label, (n, clusters) in found.items())


def _interval_words(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    level = next(row["level"] for row in rows if row.get("level"))
    seeds = sorted({row["n_seeds"] for row in rows if row.get("n_seeds")})
    n = "one seed" if seeds == [1] else f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    return f"Bars: {level:.0%} intervals, sentences resampled ({n})."


def _emergence(folder: ResultsFolder, grids: Mapping[str, Grid], out: Charts) -> None:
    name, rows = "emergence_by_scale", []
    for setting in folder.settings:
        grid = grids.get(setting.label)
        if grid is None:
            continue
        if " " in setting.label:
            out.skip(f"{name}: {setting.label}", "only the default data and layout form one series over sizes")
            continue
        where = {"setting": setting.label, **_scale(setting)}
        for found in (grid.analysis.probe, grid.analysis.scratch):
            if found is None or where["non_embedding"] is None:
                continue
            e = found.score
            if not math.isfinite(e.point):
                out.skip(f"{name}: {setting.label}", f"score against {found.floor} undefined: {', '.join(found.flags)}")
            ends = {"score": e.point, "lo": e.lo, "hi": e.hi, "level": e.level, "method": e.method}
            rows.append({**where, "floor": found.floor, **ends, "n_seeds": e.n_seeds, "flags": " ".join(found.flags)})
    if len({row["setting"] for row in rows}) < 2:
        out.skip(name, f"it takes two sizes with an emergence score, here are {len({r['setting'] for r in rows})}")
        return
    caption = (
        "Emergence score S = (frozen - floor) / (full - floor) of each size, against non-embedding parameters and "
        f"against pretraining loss on held-out text (axis reversed). {_interval_words(rows)} Floors: drawn apart."
    )
    out.add(name, "emergence", "Emergence by scale", caption, rows, "")


def _scale(setting: Setting) -> Row:
    """Parameters and held-out loss, the loss averaged over the seeds' trunks."""
    full = [m.result for m in setting.of_cell(FULL) if m.result]
    sizes = {r.parameters["non_embedding"] for r in full if r.parameters}
    pretraining = [(r.pretraining or {}).get("test") or (r.pretraining or {}).get("validation") for r in full]
    losses = [p["nats_per_token"] for p in pretraining if p]
    loss = float(np.mean(losses)) if losses else math.nan
    return {"non_embedding": min(sizes) if sizes else None, "pretraining_loss": loss}


# Probes by layer ---------------------------------------------------------------------------------


def _probing(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    for setting in folder.settings:
        mine: list[Row] = []
        for cell in (FROZEN, RANDOM_FROZEN):
            for member in setting.of_cell(cell):
                fits = ((member.result.probes if member.result else None) or {}).get("fits", ())
                for fit in fits:
                    keys = ("family", "layer", "validation_f1", "validation_em", "n_trainable", "converged")
                    facts = {key: fit[key] for key in keys}
                    mine.append({"setting": setting.label, "cell": cell, "seed": member.seed, **facts})
        rows += mine
        if mine and not any(row["cell"] == RANDOM_FROZEN for row in mine):
            out.skip(f"floor of probing_layers: {setting.label}", "no random trunk was probed (--random-baseline)")
    caption = (
        "Validation token F1 of probes on frozen states by layer (0: embeddings). Filled, solid: pretrained. "
        "Open, dashed: random trunk. Bands: range over seeds."
    )
    out.add("probing_layers", "probing", "Probes by layer", caption, rows, "no finished run with a frozen trunk")


# Few-shot ----------------------------------------------------------------------------------------


def _few_shot(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    for setting in folder.settings:
        mine = [row for member in setting.members if (row := _few_shot_row(setting.label, member))]
        if len({row["samples"] for row in mine if row["limited"]}) >= 2:
            rows += sorted(mine, key=lambda row: (CELLS.index(row["cell"]), row["samples"], row["seed"]))
    caption = (
        f"Test token F1 against training questions. {_interval_words(rows)} "
        "Where a number of questions was run with several seeds: their mean, and a band over their range."
    )
    reason = "it takes runs with at least two values of --finetune-samples"
    out.add("few_shot", "few_shot", "Few-shot learning", caption, rows, reason)


def _few_shot_row(label: str, member: FoundRun) -> Row | None:
    result = member.result
    scores = ((result.test_scores if result else None) or {}).get("scores", {})
    if result is None or member.cell is None or "f1_tokens" not in scores:
        return None
    available = (result.qasrl_train_filtering or {}).get("valid_examples")
    known = [n for n in (member.samples, available) if n is not None]
    if not known:
        return None
    row = _bar(label, member.cell, Estimate.from_dict(scores["f1_tokens"]))
    return {**row, "samples": min(known), "limited": member.samples is not None, "seed": member.seed}


# By role and voice -------------------------------------------------------------------------------


def _breakdowns(folder: ResultsFolder, out: Charts, n_boot: int) -> None:
    if not folder.settings:
        out.skip("roles", "no finished run with predictions")
    for setting in folder.settings:
        runs = [member.scores for member in setting.all_questions() if member.scores]
        name = "roles_" + setting.label.replace(" ", "_").replace("+", "").replace("#", "")
        rows = _breakdown(setting.label, runs, n_boot) if runs else []
        caption = (
            f"Token F1 by the questioned role (its wh-word) and the voice of the predicate; n: test questions. "
            f"{_interval_words(rows)} Groups of fewer than {LEAST_QUESTIONS} are in the data only."
        )
        title = f"By role and voice: {setting.label}"
        out.add(name, "breakdown", title, caption, rows, "no finished run with predictions")


def _breakdown(label: str, runs: Sequence[RunScores], n_boot: int) -> list[Row]:
    """Each group of questions in each cell, over the seeds, on the questions of the first run."""
    first = runs[0]
    facts = {row["id"]: row for row in first.run.read_predictions()}
    labels = {
        "role": [str(facts[q]["role"] or "other") for q in first.ids],
        "voice": [{True: "passive", False: "active", None: "unknown"}[facts[q]["passive"]] for q in first.ids],
    }
    columns: dict[str, list[np.ndarray]] = {}
    seeds: dict[str, list[str]] = {}
    for run in runs:
        cell, place = run.cell or "", {question: i for i, question in enumerate(run.ids)}
        if set(place) == set(first.ids) and run.seed_label not in seeds.get(cell, []):
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


# Results with the guide's keys alone -------------------------------------------------------------


def _documented(folder: ResultsFolder, out: Charts) -> None:
    rows: list[Row] = []
    for found in folder.documented:
        result = found.result
        assert result is not None
        if result.final_validation_f1 is None or result.finetune_samples_limit is not None:
            out.skip(found.name, "no validation F1" if result.final_validation_f1 is None else "few-shot, unknown seed")
            continue
        cell = {(False, False): FULL, (True, False): FROZEN, (False, True): RANDOM_FULL, (True, True): RANDOM_FROZEN}[
            result.freeze_llm, result.random_baseline
        ]
        out.skip(found.name, "only the guide's keys: no test scores, intervals, layers or roles can be drawn from it")
        if any(row["setting"] == result.config_name and row["cell"] == cell for row in rows):
            out.skip(found.name, f"another file is drawn as {result.config_name}, {CELL_NAMES[cell]}")
            continue
        f1 = result.final_validation_f1
        rows.append({"setting": result.config_name, "cell": cell, "f1": f1, "lo": math.nan, "hi": math.nan})
    rows.sort(key=lambda row: CELLS.index(row["cell"]))
    caption = (
        "Token F1 on validation questions, from results files that hold the guide's keys alone: no intervals, and "
        "nothing says whether the runs saw the same questions."
    )
    if rows:
        out.add("validation_f1", "two_by_two", "Validation F1, older results files", caption, rows, "")
