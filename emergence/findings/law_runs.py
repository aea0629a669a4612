"""Rows of a law's table out of a folder: finished runs, and the probed snapshots of their pretraining."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emergence.errors import DataError, EmergenceError, RunDirectoryError, UsageError
from emergence.experiment.claims import own_result
from emergence.experiment.facts import HEADLINE
from emergence.experiment.result import RunResult
from emergence.experiment.store import RunDirectory
from emergence.findings.collect import Collection, collect_results
from emergence.findings.comparable import NOT_RECORDED, group_results
from emergence.findings.law_table import LawTable, read_law_table
from emergence.findings.snapshot_curve import read_snapshot_probes
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import LINEAR
from emergence.measures.emergence_score import FROZEN, FULL
from emergence.measures.scaling_law import LEAST_SIZES
from emergence.spec.experiment import ExperimentSpec, pretrain_label
from emergence.studies.prompted.result import FILES as PROMPTED
from emergence.studies.prompted.result import RAW, PromptedResult
from emergence.studies.prompted.result import read_result as read_prompted
from emergence.studies.snapshots.result import GAIN, SnapshotProbes
from emergence.wording import counted, did_you_mean

Cell = Literal["full", "frozen"]
Score = Literal["f1_tokens", "em", "expected_f1"]
Unit = Literal["nats", "bits_per_byte"]
#: Unit to the key of a stored loss.
_LOSSES = {"nats": "nats_per_token", "bits_per_byte": "bits_per_byte"}
#: Amounts of training questions that are proposed to who has too few.
_AMOUNTS = (30, 300, 1000, 100, 3000, 10)
#: Finetuned runs, amounts and checkpoints below which there is no law.
LEAST_RUNS, LEAST_AMOUNTS, LEAST_CHECKPOINTS = 8, 3, 3
#: Least standard error of a row, in the median one. All runs answer the same questions, so a score near 0 or 1, whose
#: own error is tiny, is no run that must be met exactly.
_LEAST_ERROR = 0.5


@dataclass(frozen=True)
class RunRows:
    """Which rows a folder gives.

    Attributes:
        cell: ``full``, models trained whole, or ``frozen``, probes of trunks and of their snapshots.
        score: On test questions. unit: Of the losses. series: Pretraining data and layout, where there are several.
        family: Of the probe, for ``frozen``.
        shots: Of the few-shot rows beside ``full``; None for the most that were asked, 0 for no such rows.
    """

    cell: Cell = "full"
    score: Score = "f1_tokens"
    unit: Unit = "nats"
    series: str | None = None
    family: str = "linear"
    shots: int | None = None


@dataclass(frozen=True)
class _Row:
    """One run or snapshot, with what it must share with the others of its law.

    Attributes:
        key: Pretraining data, layout, adapter, test questions, and what else may not differ. label: The first three in
            words.
    """

    key: tuple[Any, ...]
    label: str
    name: str
    values: dict[str, Any]


def law_table_of(path: Path, asked: RunRows = RunRows()) -> LawTable:
    """The table of a file, or of the runs in a folder.

    Raises:
        DataError: As :func:`read_law_table`, or the folder has no such run. UsageError: ``series`` is none of it.
    """
    if not path.is_dir():
        return read_law_table(path)
    collection = collect_results(path)
    left_out = [f"{item.name}: {item.reason}" for item in collection.skipped if item.kind == "damaged"]
    rows = list(_of_cell(collection, asked, left_out))
    if not rows:
        other: Cell = "frozen" if asked.cell == "full" else "full"
        there = len(list(_of_cell(collection, RunRows(other, asked.score, asked.unit), [])))
        hint = f": --cell {other} has {counted(there, 'row')}" if there else ""
        more = f"; left out: {left_out[0]}" if left_out else ""
        is_full = asked.cell == "full"
        wanted = "finished run of a pretrained trunk, full" if is_full else "probed snapshots of a frozen run"
        raise DataError(f"no {wanted}{hint}{more}", path)
    rows = _of_series(rows, asked.series, path)
    kept: dict[tuple[Any, ...], _Row] = {}
    for row in rows:
        identity = tuple(row.values[column] for column in ("checkpoint", "amount", "subset", "fewshot"))
        if identity in kept:
            left_out.append(f"{row.name}: the same trunk, questions and draw as {kept[identity].name}, which is used")
        kept.setdefault(identity, row)
    values = [row.values for row in kept.values()]
    has_errors = all(math.isfinite(row["se"]) for row in values) and any(row["se"] for row in values)
    least = _LEAST_ERROR * float(np.median([row["se"] for row in values])) if has_errors else 0.0
    values = [{**row, "se": max(row["se"], least)} for row in values]
    columns = [column for column in values[0] if column != "se" or least > 0]
    how = "all weights trained" if asked.cell == "full" else f"frozen, {asked.family} probe"
    about = f"{how}; {asked.score} on test questions; {rows[0].label}; losses in {asked.unit.replace('_', ' ')}"
    return LawTable(
        path,
        tuple(columns),
        tuple({column: row[column] for column in columns} for row in values),
        tuple(range(1, len(values) + 1)),
        about=about,
        cure=runs_that_would(values),
        left_out=tuple(left_out),
    )


@dataclass(frozen=True)
class AdapterRun:
    """One finetuned run in a comparison of adapters: the pretraining loss of its trunk and its test token F1."""

    adapter: str
    loss: float
    amount: int
    score: float
    checkpoint: str
    draw: str


def runs_by_adapter(collection: Collection) -> dict[str, list[AdapterRun]]:
    """Finetuned runs of one pretraining data, layout and test questions, by those in words, where adapters differ."""
    groups: dict[tuple[Any, ...], list[AdapterRun]] = {}
    labels: dict[tuple[Any, ...], str] = {}
    for row in _full_rows(collection, RunRows(), []):
        key, values = (*row.key[:2], *row.key[3:]), row.values
        labels.setdefault(key, row.label.removesuffix(f", {row.key[2]}"))
        groups.setdefault(key, []).append(
            AdapterRun(
                row.key[2], values["loss"], values["amount"], values["score"], values["checkpoint"], values["subset"],
            )
        )  # fmt: skip
    several = [key for key, runs in groups.items() if len({run.adapter for run in runs}) > 1]
    names = numbered_labels([labels[key] for key in several])
    return dict(zip(names, (groups[key] for key in several), strict=True))


def numbered_labels(labels: Sequence[str]) -> list[str]:
    """The labels, with a number behind every one that stood before.

    >>> numbered_labels(["wiki", "books", "wiki"])
    ['wiki', 'books', 'wiki (2)']
    """
    return [f"{label} ({n})" if (n := labels[: i + 1].count(label)) > 1 else label for i, label in enumerate(labels)]


def runs_that_would(rows: Sequence[dict[str, Any]]) -> str:
    """Which runs a folder lacks for a law; empty if it has the least number of runs, amounts and checkpoints."""
    tuned = [row for row in rows if not row["fewshot"]]
    amounts, checkpoints = {row["amount"] for row in tuned}, len({row["loss"] for row in tuned})
    parts = []
    if (lacking := LEAST_CHECKPOINTS - checkpoints) > 0:
        parts.append(f"{lacking} more checkpoint(s) (--snapshot, or another --config-name)")
    if (lacking := LEAST_AMOUNTS - len(amounts)) > 0:
        most = max(amounts, default=math.inf)
        proposed = sorted([n for n in _AMOUNTS if n < most and n not in amounts][:lacking])
        flags = " and ".join(f"--finetune-samples {n}" for n in proposed) or "more questions"
        parts.append(f"each checkpoint with {flags}")
    lacking = checkpoints * len(amounts) - len({(row["loss"], row["amount"]) for row in tuned})
    if len(tuned) < LEAST_RUNS and lacking and not parts:
        parts.append(f"the other {lacking} of {checkpoints} checkpoints x {len(amounts)} amounts")
    return (
        f"; runs that would do: {', and '.join(parts)} (or the sweep matrix-law, small: matrix-law-debug)"
        if parts
        else ""
    )


def _of_series(rows: list[_Row], series: str | None, path: Path) -> list[_Row]:
    """The rows of one key, and why there are several where nobody said which."""
    first = {row.key: row.label for row in reversed(rows)}
    keys = list(dict.fromkeys(row.key for row in rows))
    labels = dict(zip(keys, numbered_labels([first[key] for key in keys]), strict=True))
    if series is None and len(labels) > 1:
        names = "; ".join(f"{label}: {sum(row.key == key for row in rows)} rows" for key, label in labels.items())
        raise DataError(f"several series, and a law takes one: give --series ({names})", path)
    wanted = next(iter(labels.values())) if series is None else series
    if wanted not in labels.values():
        raise UsageError(f"--series {wanted}: {did_you_mean(wanted, labels.values())}")
    return [row for row in rows if labels[row.key] == wanted]


def _of_cell(collection: Collection, asked: RunRows, left_out: list[str]) -> Iterator[_Row]:
    if asked.cell == "full":
        rows = list(_full_rows(collection, asked, left_out))
        yield from rows
        yield from _fewshot_rows(collection, asked, rows, left_out)
    else:
        yield from _frozen_rows(collection, asked, left_out)


def _full_rows(collection: Collection, asked: RunRows, left_out: list[str]) -> Iterator[_Row]:
    for s in group_results(collection).sets:
        for item in s.cells.get(FULL, ()):
            if item.spec is None:
                left_out.append(f"{item.name}: the older format tells of no trunk")
                continue
            loss = loss_of(item.result, asked.unit)
            score, amount = item.result.estimate("test", asked.score), item.result.training_questions
            if loss is None or score is None or amount is None:
                left_out.append(f"{item.name}: no loss on held-out text, no {asked.score}, or no count of questions")
                continue
            text = s.trunk.pretraining_text if s.trunk else NOT_RECORDED
            pretrain = s.pretrain.partition(" at step ")[0]  # snapshots and the end of one pretraining are one series
            key = (pretrain, s.base.layout, s.base.adapter, s.base.questions, s.base.evaluation_settings, text)
            checkpoint = f"{item.result.trunk.pretrain_id}@{item.result.pretrained.steps}"
            yield _row(
                asked, key, item.name, loss, amount, score, checkpoint, _draw_of(item.spec), s.base.size,
                s.base.tokenizer,
            )  # fmt: skip


def _fewshot_rows(
    collection: Collection, asked: RunRows, finetuned: Sequence[_Row], left_out: list[str]
) -> Iterator[_Row]:
    """What the trunks of finetuned runs answer from prompts of one number of shots, once for each series."""
    results = _prompted_results(collection, left_out) if asked.shots != 0 else []
    known = [trunk.shots for _, result in results for trunk in result.trunks if trunk.shots > 1]
    shots = asked.shots or max(known, default=0)
    for run, result in results:
        pretrain_id = run.spec.pretrain_id
        own = {row.key: row for row in finetuned if str(row.values["checkpoint"]).startswith(f"{pretrain_id}@")}
        own = {key: row for key, row in own.items() if key[3] == str(result.settings["questions"])[:12]}
        if not own:
            left_out.append(f"{run.run_id}, prompted: no run is finetuned on its trunks and questions here")
        for trunk, found in zip(result.trunks, result.estimates, strict=True):
            loss, score = trunk.loss.get(_LOSSES[asked.unit]), found[RAW].get(asked.score)
            if trunk.shots == shots and trunk.step is not None and loss is not None and score is not None:
                name = f"{run.run_id}, {trunk.name}, {shots} shots"
                for key, row in own.items():
                    yield _row(
                        asked, key, name, float(loss), shots, score, f"{pretrain_id}@{trunk.step}", "",
                        str(row.values["size"]), str(row.values["tokenizer"]), is_fewshot=True,
                    )  # fmt: skip


def _prompted_results(collection: Collection, left_out: list[str]) -> list[tuple[RunDirectory, PromptedResult]]:
    """Answers from prompts of every run of the folder."""
    found = []
    for run in _runs_of(collection):
        for path in sorted((run.path / PROMPTED.folder).glob(f"*/{PROMPTED.json_file}")):
            try:
                found.append((run, read_prompted(path.parent)))
            except RunDirectoryError as error:
                left_out.append(f"{run.run_id}, prompted: {error}")
    return found


def _frozen_rows(collection: Collection, asked: RunRows, left_out: list[str]) -> Iterator[_Row]:
    """Probed snapshots, then frozen runs of the trunks that were probed, with the loss of their last snapshot.

    A run's own loss is that of the whole test text, a snapshot's that of its beginning: one axis takes one text.
    """
    last: dict[tuple[str, str, str], _Row] = {}
    for result in _snapshot_results(collection, left_out):
        if asked.family not in result.families:
            known = ", ".join(family for family in result.families if not family.startswith(GAIN))
            left_out.append(f"{result.run['run_id']}: no {asked.family} probe of its snapshots ({known})")
            continue
        run, settings = result.run, result.settings
        trunk, layout = str(run.get("pretrain_id", run["run_id"])), str(settings.get("layout", NOT_RECORDED))
        text, questions = str(run.get("text", run["pretrain_data"])), str(settings.get("questions"))[:12]
        key = (text, layout, "none", questions, settings.get("loss_tokens"))
        for snapshot in result.path_of_training:
            loss = float(snapshot.loss[_LOSSES[asked.unit]])
            estimate = result.estimates[snapshot.name][asked.family][asked.score]
            row = last[trunk, layout, questions] = _row(
                asked, key, f"{run['run_id']}, {snapshot.name}", loss, int(settings["train_questions"]), estimate,
                f"{trunk}@{snapshot.step}", f"seed {run['seed']}, subset 0", str(run["config_name"]),
                str(settings.get("tokenizer"))[:12],
            )  # fmt: skip
            yield row
    readout = HEADLINE if asked.family == LINEAR else asked.family
    for s in group_results(collection).sets:
        for item in s.cells.get(FROZEN, ()):
            on = last.get((str(item.result.trunk.pretrain_id), s.base.layout, s.base.questions))
            if item.spec is None or on is None:
                left_out.append(f"{item.name}: its trunk's snapshots are not probed here (emergence probe-snapshots)")
                continue
            score, amount = item.result.estimate("test", asked.score, readout), item.result.training_questions
            if score is None or amount is None:
                left_out.append(f"{item.name}: no {asked.score} of a {asked.family} probe, or no count of questions")
                continue
            yield _row(
                asked, on.key, item.name, on.values["loss"], amount, score, on.values["checkpoint"],
                _draw_of(item.spec), s.base.size, s.base.tokenizer,
            )  # fmt: skip


def _row(
    asked: RunRows,
    key: tuple[Any, ...],
    name: str,
    loss: float,
    amount: int,
    score: Estimate,
    checkpoint: str,
    draw: str,
    size: str,
    tokenizer: str,
    *,
    is_fewshot: bool = False,
) -> _Row:
    """One row; ``key`` is as of :class:`_Row`, ``draw`` names the draw of training questions."""
    text, layout, adapter = key[:3]
    parts = [text, *([layout] if layout not in ("question-first", NOT_RECORDED) else [])]
    label = ", ".join([*parts, *([adapter] if adapter != "none" else [])])
    values: dict[str, Any] = {"loss": loss, "amount": amount, "score": score.point, "fewshot": int(is_fewshot)}
    values |= {"checkpoint": checkpoint}
    values |= {"subset": draw, "size": size, "se": score.se, "unit": asked.unit, "tokenizer": tokenizer, "run": name}
    return _Row(key, label, name, values)


def _draw_of(spec: ExperimentSpec) -> str:
    """The draw of training questions: in subset 0 of a seed fewer questions are part of more; of all there is one."""
    return "all" if spec.finetune_samples is None else f"seed {spec.seed}, subset {spec.subset}"


def loss_of(result: RunResult, unit: Unit) -> float | None:
    """Held-out loss of a run's trunk; None for a random one, and where it is not recorded."""
    held_out = result.held_out_loss
    if held_out is None:
        return None
    return held_out.bits_per_byte if unit == "bits_per_byte" else held_out.nats_per_token


def _snapshot_results(collection: Collection, left_out: list[str]) -> list[SnapshotProbes]:
    """Of every run of the folder."""
    results, problems = read_snapshot_probes([run.path for run in _runs_of(collection)])
    left_out += [f"{name}: {reason}" for name, reason in problems]
    return results


def _runs_of(collection: Collection) -> list[RunDirectory]:
    """Every run of the folder, finished or not."""
    names = dict.fromkeys([*(item.name for item in collection.found), *(item.name for item in collection.skipped)])
    return [run for name in names if (run := collection.run(name))]


# The scaling law ------------------------------------------------------------------------------------


def scaling_table_of(path: Path, unit: Unit = "nats", series: str | None = None) -> LawTable:
    """The table of a file, or one row for each pretraining in a folder, at its end.

    Snapshots are no rows: before the learning rate has fallen their losses are those of no training of their length.

    Raises:
        DataError: As :func:`read_law_table`, or the folder has no such run. UsageError: ``series`` is none of it.
    """
    if not path.is_dir():
        return read_law_table(path)
    collection = collect_results(path)
    best: dict[str, _Row] = {}
    for name, result in _results(collection):
        row = _pretraining_row(name, result, unit)
        if row is not None:
            known = best.setdefault(row.values["pretrain"], row)
            best[row.values["pretrain"]] = max(known, row, key=lambda each: each.values["tokens"])
    if not best:
        raise DataError("no finished run here tells its pretraining's loss, tokens and parameters", path)
    rows = _of_series(list(best.values()), series, path)
    columns = tuple(c for c in rows[0].values if c != "pretrain" and all(c in row.values for row in rows))
    sizes = len({row.values["params"] for row in rows})
    return LawTable(
        path,
        columns,
        tuple({column: row.values[column] for column in columns} for row in rows),
        tuple(range(1, len(rows) + 1)),
        about=f"{rows[0].label}; losses in {unit.replace('_', ' ')}; a row for each pretraining",
        cure=f"; runs that would do: {LEAST_SIZES - sizes} more sizes (--config-name, --set model.hidden_size=...), "
        "--skip-finetune" if sizes < LEAST_SIZES else "",
    )  # fmt: skip


def _results(collection: Collection) -> Iterator[tuple[str, RunResult]]:
    """Results of runs, those that only pretrained included."""
    yield from ((item.name, item.result) for item in collection.found if item.spec is not None)
    for item in collection.skipped:
        run = collection.run(item.name) if item.kind == "pretraining" else None
        if run is not None:
            with contextlib.suppress(EmergenceError):
                yield item.name, own_result(run)


def _pretraining_row(name: str, result: RunResult, unit: Unit) -> _Row | None:
    """None for a trunk that the run did not pretrain, for one within a pretraining, and for what is not recorded."""
    loss, pretrained = loss_of(result, unit), result.pretrained
    params, total = result.n_parameters("non_embedding"), result.n_parameters("total")
    if None in (loss, pretrained.tokens_seen, params, result.trunk.pretrain_id) or result.spec is None:
        return None
    spec = ExperimentSpec.from_dict(result.spec, name)
    if not spec.pretrains or spec.at_snapshot:
        return None
    tokens = float(pretrained.tokens_seen or 0)
    values: dict[str, Any] = {"params": params, "tokens": tokens}
    values |= {"unique_tokens": tokens / max(pretrained.passes or 1.0, 1.0)}
    values |= {"loss": loss} | ({"params_total": total} if total is not None else {})
    values |= {"run": name, "unit": unit, "tokenizer": str(result.fingerprint("tokenizer"))[:12]}
    label = pretrain_label(spec)
    return _Row((label,), label, name, {**values, "pretrain": str(result.trunk.pretrain_id)})
