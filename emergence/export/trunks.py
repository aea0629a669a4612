"""Which trunks of a run are exported, and where each one goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from emergence.answering.stored_heads import trunk_weights
from emergence.errors import RunDirectoryError, UsageError, WeightsError
from emergence.experiment.belonging import FINETUNED, RANDOM, load_own
from emergence.experiment.run_directory import STATS_FILE, RunDirectory
from emergence.model import build_trunk
from emergence.spec.adapters import prefix_states
from emergence.studies.trunks import Timeline, read_timeline, refuse_without_snapshots
from emergence.training.checkpoint import WeightsFile, check_trunk, load_weights
from emergence.wording import counted

Which = Literal["pretrained", "finetuned"]


@dataclass(frozen=True)
class TrunkToExport:
    """One trunk.

    Attributes:
        folder: Its folder within the export, and its branch on the hub: ``step512``. Empty for the export itself.
        what: What it is, in words.
        stage: ``pretrained``, ``random`` or ``finetuned``.
        step, tokens_seen: How long it was pretrained; None where that is not recorded.
        path: The file that holds its weights, or those of its pretraining's end for the trunk that this began with.
        load: A function that reads its weights.
    """

    folder: str
    what: str
    stage: str
    step: int | None
    tokens_seen: int | None
    path: Path
    load: Callable[[], WeightsFile]

    def checked(self) -> WeightsFile:
        """Its weights without heads, after the checks that a run asks of a trunk that it is given.

        Raises:
            WeightsError: The file is damaged, or its tensors are not those of its architecture, float32 and finite.
        """
        weights = self.load()
        trunk = replace(weights, state_dict=trunk_weights(weights.state_dict))
        check_trunk(trunk, self.path)
        counts = trunk.metadata.get("token_counts")
        if counts is not None and len(counts) > trunk.vocab_rows:
            raise WeightsError(f"{self.path}: it counts {len(counts):,} tokens, and has {trunk.vocab_rows:,} rows")
        return trunk


def trunks_to_export(run: RunDirectory, which: Which, with_snapshots: bool) -> list[TrunkToExport]:
    """The trunk that was asked for, and after it the steps of its pretraining, the first one first.

    The steps begin with the initialisation, which the run's seed draws again, and end with the trunk itself.

    Raises:
        UsageError: The run has no such trunk yet, or no snapshots.
        WeightsError: A file is damaged, or of another run.
    """
    if with_snapshots and which == "finetuned":
        raise UsageError("--snapshots are those of pretraining: leave out --which finetuned")
    if which == "finetuned" and prefix_states(run.spec.adapter):
        raise UsageError(
            f"{run.run_id} finetuned states that stand before a text, which no model of transformers has: export the "
            "trunk that it started from, --which pretrained"
        )
    path = run.finetuned_path if which == "finetuned" else run.trunk_path
    if not path.is_file():
        when = "it has finetuned or probed" if which == "finetuned" else "it has pretrained"
        raise UsageError(f"{run.run_id} has no {path.name}: a run has it once {when}")
    refuse_if_damaged(run, path.name)
    weights = load_own(run, path)
    stage = weights.metadata.get("stage") or which
    step, tokens = _pretraining_of(weights)
    main = TrunkToExport("", _words(run, weights, stage), stage, step, tokens, path, partial(load_weights, path))
    return [main, *_steps(run, main)] if with_snapshots else [main]


def refuse_if_damaged(run: RunDirectory, name: str) -> None:
    """Refuse a file of a finished run, or its result, that is not as its manifest has it.

    Raises:
        RunDirectoryError: It is not.
    """
    for part in (name, STATS_FILE) if run.is_finished else ():
        try:
            run.checked(part)
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{error}: `emergence verify-run {run.path}` says what else is") from None


def _pretraining_of(weights: WeightsFile) -> tuple[int | None, int | None]:
    """Steps and tokens of the pretraining behind a trunk: 0 for a random one."""
    if weights.metadata.get("stage") == RANDOM:
        return 0, 0
    pretraining: dict[str, Any] = weights.metadata.get("pretraining") or {}
    return pretraining.get("steps"), pretraining.get("tokens_seen")


def _words(run: RunDirectory, weights: WeightsFile, stage: str) -> str:
    step, tokens = _pretraining_of(weights)
    if stage == RANDOM:
        return f"a random trunk, never trained: the normal initialisation of seed {run.spec.seed}"
    if stage == FINETUNED:
        start = "random" if run.spec.random_baseline else "pretrained"
        if run.spec.freeze_llm:
            return f"the {start} trunk as its probes read it: never finetuned, rows of unseen tokens drawn anew"
        return f"the trunk after finetuning all weights on questions, from a {start} one; without the head that answers"
    taken = " of another run" if weights.metadata.get("source") else ""
    length = f": {counted(step, 'step')}, {counted(tokens, 'token')}" if step is not None and tokens is not None else ""
    return f"the pretrained trunk{taken}, never finetuned{length}"


def _steps(run: RunDirectory, main: TrunkToExport) -> list[TrunkToExport]:
    refuse_without_snapshots(run)
    timeline = read_timeline(run)
    steps: dict[int, TrunkToExport] = {}
    for point in timeline.checkpoints[: timeline.start_index]:
        step, tokens = point.facts.get("step"), point.facts.get("tokens_seen")
        if step is None or tokens is None:
            raise WeightsError(f"{point.path}: it does not say after how many steps and tokens it was saved")
        steps.setdefault(step, _step(step, tokens, point.path, partial(load_weights, point.path)))
    if main.step is not None and main.tokens_seen is not None:
        steps[main.step] = _step(main.step, main.tokens_seen, main.path, main.load)
    steps.setdefault(0, _step(0, 0, run.trunk_path, partial(_initialisation, timeline, run.trunk_path)))
    return [steps[step] for step in sorted(steps)]


def _step(step: int, tokens: int, path: Path, load: Callable[[], WeightsFile]) -> TrunkToExport:
    words = f"the trunk after {counted(step, 'step')} of pretraining, {counted(tokens, 'token')}"
    return TrunkToExport(f"step{step}", words, "pretrained", step, tokens, path, load)


def _initialisation(timeline: Timeline, trunk: Path) -> WeightsFile:
    """The trunk that pretraining began with."""
    drawn = build_trunk(timeline.model, timeline.vocab_rows, seed=timeline.run.spec.seed)
    last = load_weights(trunk)
    kept = {key: last.metadata[key] for key in ("token_counts",) if key in last.metadata}
    return WeightsFile(dict(drawn.state_dict()), last.model, last.vocab_rows, last.tokenizer_json, kept)
