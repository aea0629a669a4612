"""What runs there are and how far each is, for ``--list-saved`` and ``emergence list``.

The code takes a table of files and a way to read one, so that Modal's client lists a volume with it, too. A damaged
run is listed as damaged. The module imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from emergence.errors import EmergenceError, RunDirectoryError, UsageError
from emergence.experiment.locks import read_holder
from emergence.experiment.manifest import MANIFEST_FILE, decode_manifest
from emergence.experiment.result import RunResult
from emergence.experiment.run_directory import (
    CHECKPOINT_FOLDER,
    HISTORY_FILE,
    SPEC_FILE,
    STATS_FILE,
    TRUNK_FILE,
    differing_sizes,
    parse_spec_file,
)
from emergence.experiment.store import holds_run_files, is_run_id
from emergence.files import folder_files, parse_json, unseal
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec
from emergence.training.checkpoint_names import parse_checkpoint_name
from emergence.wording import aligned, counted, in_line

#: What a run is doing, by the first word of a history line's kind or of a checkpoint's phase.
_STAGES = {"pretrain": "pretraining", "finetune": "finetuning", "probe": "probing"}
#: Where the history says how many steps there will be: fewer than planned if the text is short.
_TOTAL_STEPS = re.compile(rb'"total_steps":(\d{1,12})')
#: Lines of the history that a training of the search, and an epoch of the final one, end with.
_SEARCHED, _ENDED = b'"finetune_search"', b'"finetune_epoch"'


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and time of last change (seconds since 1970) of one file."""

    bytes: int
    changed: float


@dataclass(frozen=True)
class RunSummary:
    """One line of the listing.

    Attributes:
        run_id: Folder name.
        path: Where it lies.
        config_name, condition, seed: From the spec; None where that is damaged.
        stage: ``created``, ``pretraining``, ``pretrained``, ``finetuning``, ``probing``, ``finished``, ``damaged``.
        running: Whether a process is writing to it now; None where that cannot be seen.
        progress: Share of the present phase that is done, 0 to 1, where it is known.
        detail: The same in words, or what is damaged.
        f1, em: Token F1 and exact match on validation, of a finished run or of the last epoch.
        updated: Last change, seconds since 1970; None for an empty folder.
        bytes: Size of all files.
    """

    run_id: str
    path: str
    config_name: str | None = None
    condition: str | None = None
    seed: int | None = None
    stage: str = "damaged"
    running: bool | None = None
    progress: float | None = None
    detail: str = ""
    f1: float | None = None
    em: float | None = None
    updated: float | None = None
    bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``updated`` as ISO time (UTC)."""
        when = None if self.updated is None else datetime.fromtimestamp(self.updated, UTC).isoformat(timespec="seconds")
        return plain(vars(self) | {"updated": when})


def list_runs(root: Path) -> list[RunSummary]:
    """Every run directory under ``root``, last changed first; empty where there is no such folder."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is not a folder: give the folder that holds the run directories")
    inside = root.iterdir() if root.exists() else ()
    folders = [path for path in inside if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]
    summaries = [_summarise_folder(folder) for folder in folders if may_be_run(folder)]
    return sorted(summaries, key=lambda s: (s.updated or 0.0, s.run_id), reverse=True)


def may_be_run(folder: Path) -> bool:
    """Whether a folder holds a file of a run, or nothing at all, as after a kill at the very beginning.

    A report, figures and other folders that people keep beside their runs are no damaged runs. A copy may be named as
    people name them, ``tiny (1)``, which the program itself never does.
    """
    try:
        return holds_run_files(folder) or (is_run_id(folder.name) and not any(folder.iterdir()))
    except OSError:
        return True  # what cannot be read is named


def _summarise_folder(folder: Path) -> RunSummary:
    files = {}
    try:
        for path in folder_files(folder):
            stat = path.stat()
            files[path.relative_to(folder).as_posix()] = FileFacts(stat.st_size, stat.st_mtime)
    except OSError as error:  # just deleted, or not readable
        return RunSummary(folder.name, str(folder), detail=error.strerror or str(error))
    running = read_holder(folder) is not None
    return summarise_run(folder.name, str(folder), files, lambda name: (folder / name).read_bytes(), running)


def summarise_run(
    run_id: str,
    path: str,
    files: Mapping[str, FileFacts],
    read: Callable[[str], bytes],
    running: bool | None = None,
) -> RunSummary:
    """Summarise one run.

    Args:
        files: Its files by name relative to the run directory.
        read: Returns the content of one of them, or raises OSError.
        running: Whether a writer is at work; None where that is unknown.
    """
    summary = RunSummary(
        run_id=run_id,
        path=path,
        running=running,
        updated=max((facts.changed for facts in files.values()), default=None),
        bytes=sum(facts.bytes for facts in files.values()),
    )
    if SPEC_FILE not in files:
        what = f"no {SPEC_FILE}: not a run, or killed as it began" if files else "an empty folder"
        return dataclasses.replace(summary, detail=what)
    try:
        raw = parse_json(_text(read(SPEC_FILE)), SPEC_FILE)
        spec = parse_spec_file(raw, SPEC_FILE).spec
        summary = dataclasses.replace(summary, config_name=spec.config.name, condition=spec.condition, seed=spec.seed)
        return _finished(summary, files, read) if STATS_FILE in files else _unfinished(summary, spec, files, read)
    except (EmergenceError, OSError) as error:
        return dataclasses.replace(summary, stage="damaged", detail=str(error))


def _finished(summary: RunSummary, files: Mapping[str, FileFacts], read: Callable[[str], bytes]) -> RunSummary:
    """A finished run; marked as damaged where a seal or the size of a file shows it."""
    content = read(STATS_FILE)
    result = RunResult.from_dict(unseal(parse_json(_text(content), STATS_FILE), STATS_FILE), STATS_FILE)
    summary = dataclasses.replace(
        summary, stage="finished", progress=1.0, f1=result.final_validation_f1, em=result.final_validation_accuracy
    )
    if MANIFEST_FILE not in files:
        return dataclasses.replace(summary, stage="damaged", detail=f"{MANIFEST_FILE}: missing")
    entries = decode_manifest(read(MANIFEST_FILE), MANIFEST_FILE)
    if (entry := entries.get(STATS_FILE)) is None or entry.sha256 != sha256(content).hexdigest():
        raise RunDirectoryError(f"{STATS_FILE}: not the one in {MANIFEST_FILE}")
    if problems := differing_sizes(entries, {name: facts.bytes for name, facts in files.items()}):
        return dataclasses.replace(summary, stage="damaged", detail=problems[0])
    return summary


def _unfinished(
    summary: RunSummary, spec: ExperimentSpec, files: Mapping[str, FileFacts], read: Callable[[str], bytes]
) -> RunSummary:
    history = read(HISTORY_FILE) if HISTORY_FILE in files else b""
    names = (parse_checkpoint_name(name.rpartition("/")[2]) for name in files if name.startswith(CHECKPOINT_FOLDER))
    newest = max((name for name in names if name), default=None)
    line = _last_line(history)
    phase = str(line.get("kind", "")).split("_")[0]
    if phase not in _STAGES:
        phase, line = (newest.phase.split("_")[0], {"step": newest.step}) if newest else ("", {})
    elif phase == "pretrain" and newest and newest.phase == phase and isinstance(line.get("step"), int):
        line = {**line, "step": max(line["step"], newest.step)}
    stage = _STAGES.get(phase, "created")
    if stage in ("created", "pretraining") and TRUNK_FILE in files:
        return dataclasses.replace(summary, stage="pretrained")
    if phase == "finetune":
        return _finetuning(summary, line, history, spec)
    done, total, unit = _position(phase, line, spec)
    if phase == "pretrain" and (logged := _TOTAL_STEPS.findall(history)):
        total = int(logged[-1])
    if done is None:
        return dataclasses.replace(summary, stage=stage)
    detail = f"{unit} {done:,} of {total:,}" if total else f"{unit} {done:,}"
    return dataclasses.replace(summary, stage=stage, progress=min(1.0, done / total) if total else None, detail=detail)


def _finetuning(summary: RunSummary, line: Mapping[str, Any], history: bytes, spec: ExperimentSpec) -> RunSummary:
    """How far the search or the final training is, and the scores of the last epoch that ended."""
    summary = dataclasses.replace(summary, stage=_STAGES["finetune"])
    step, epoch, epochs = line.get("step"), line.get("epoch"), spec.config.finetune.epochs
    if line.get("kind") == "finetune_search":
        return dataclasses.replace(summary, detail=f"search, {counted(history.count(_SEARCHED), 'training')} done")
    if not isinstance(epoch, int):
        return dataclasses.replace(summary, detail=f"step {step:,}") if isinstance(step, int) else summary
    ended = _last_line(history, _ENDED)
    f1, em = (value if isinstance(value := ended.get(f"validation_{name}"), float) else None for name in ("f1", "em"))
    done = epoch if line.get("kind") == "finetune_epoch" else epoch - 1
    detail = f"epoch {epoch} of {epochs}" + (f", step {step:,}" if isinstance(step, int) else "")
    return dataclasses.replace(summary, progress=min(1.0, done / epochs), detail=detail, f1=f1, em=em)


def _position(phase: str, line: Mapping[str, Any], spec: ExperimentSpec) -> tuple[int | None, int | None, str]:
    """Units done, units planned, and their name; None where a line does not say."""
    step = line.get("step")
    if phase == "pretrain" and isinstance(step, int):
        config = spec.config.pretrain
        return step, config.epochs * config.samples_per_epoch // config.batch_size, "step"
    if phase == "probe" and isinstance(line.get("layer"), int):
        return line["layer"], spec.config.model.n_layers, "layer"
    return (step if isinstance(step, int) else None), None, "step"


def _last_line(content: bytes, holding: bytes = b"") -> dict[str, Any]:
    """The last readable line of a history that holds some bytes. Torn and damaged lines are passed over."""
    for line in reversed(content.split(b"\n")):
        if holding not in line:
            continue
        try:
            row = parse_json(_text(line), HISTORY_FILE)
        except EmergenceError:
            continue
        if isinstance(row, dict):
            return row
    return {}


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise RunDirectoryError("damaged: not UTF-8 text") from None


# Showing ----------------------------------------------------------------------------------------

HOW_CHECKED = "sizes and seals were checked; emergence verify-run RUN checks every byte, and the scores"

#: Columns that a narrow window does without, the first one first.
SPARE_COLUMNS = ("size on disk", "seed", "val EM", "progress", "condition", "changed")
_COLUMNS = ("run", "size", "condition", "seed", "stage", "progress", "val F1", "val EM", "changed", "size on disk")


def format_listing(summaries: Sequence[RunSummary]) -> str:
    """The table, and below it how finished runs were checked, where there are any."""
    is_checked = any(summary.stage in ("finished", "damaged") for summary in summaries)
    return "\n".join([format_table(summaries), *([HOW_CHECKED] if is_checked else [])])


def format_table(summaries: Sequence[RunSummary], now: float | None = None) -> str:
    """The listing as aligned text; ``now`` (seconds since 1970) dates the ages."""
    return "\n".join(aligned(rows_of(summaries, now)))


def rows_of(summaries: Sequence[RunSummary], now: float | None = None) -> list[tuple[str, ...]]:
    """The titles of the listing's columns, and a row of cells for each run."""
    now = time.time() if now is None else now
    return [_COLUMNS, *(_row(summary, now) for summary in summaries)]


def _row(summary: RunSummary, now: float) -> tuple[str, ...]:
    stage = summary.stage + (" (running)" if summary.running and summary.stage != "finished" else "")
    progress = "" if summary.progress is None or summary.stage == "finished" else f"{summary.progress:.0%}"
    detail = " ".join(part for part in (progress, re.sub(r"\s+", " ", summary.detail)[:60]) if part)
    scores = ("-" if value is None else f"{value:.3f}" for value in (summary.f1, summary.em))
    seed = "-" if summary.seed is None else str(summary.seed)
    age = "-" if summary.updated is None else format_age(now - summary.updated)
    size, condition = summary.config_name or "-", summary.condition or "-"
    return (in_line(summary.run_id), size, condition, seed, stage, detail, *scores, age, format_bytes(summary.bytes))


def format_age(seconds: float) -> str:
    """``just now``, ``12 min ago``, ``3 h ago``, ``5 d ago``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def format_bytes(count: int) -> str:
    """``812 B``, ``3.4 MB`` (powers of ten)."""
    value, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 999.5 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
