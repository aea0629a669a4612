"""Temporal CKA: how the representations of one run change over pretraining and finetuning.

It reads a run directory and writes ``temporal_cka.json`` and ``temporal_cka.npz``. The revisions of a published model
are read likewise (:mod:`emergence.studies.cka.published`). There may be a second run to compare
with, a twin that finetuned the same trunk under another seed, and a run finetuned on control labels. States are
extracted once per set of weights and kept until the analysis is complete. So an interrupted analysis goes on where it
was. The measures are defined in docs/methods.md#temporal-cka.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emergence.data.sources import load_qa
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import UsageError
from emergence.experiment.store import RunDirectory
from emergence.measures.cka import CKAMethod
from emergence.model.huggingface import HuggingFaceTokenizer
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.activations import PASSES, ROWS, States, TrunkSource, extract_states
from emergence.studies.cka.nulls import matched_noise, random_trunks
from emergence.studies.cka.result import FILES, History, TemporalCKA
from emergence.studies.cka.views import Atlas, Cast, Effort, View, view
from emergence.studies.probe_sentences import (
    LEAST_SENTENCES,
    EncodedSentences,
    ProbeSet,
    choose_sentences,
    encode_sentences,
    fitting,
)
from emergence.studies.study import Cell, Study
from emergence.studies.trunks import Timeline, has_other_questions, read_timeline
from emergence.training.precision import select_device
from emergence.training.recording import NoProgress, Progress, StopRequested

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CKAOptions:
    """How to compare.

    Attributes:
        sentences: How many probe sentences there are at most.
        method: The kind of CKA. batch_rows: Rows of a batch of minibatch CKA; None takes all rows at once.
        random_seeds: How many untrained trunks the run is compared with.
        effort: How much is resampled.
        seed_twin: A run that finetuned the same trunk under another seed.
        control: A run that finetuned the same trunk on control labels.
        qa_data: Questions to take the sentences from, where the run's own are not reachable.
        cache_dir: Where derived data is kept.
        device: ``cpu``, ``cuda`` or ``cuda:N``. The default is the GPU where there is one.
        seed: Seed of the choice of sentences and of all resampling.
        keep_states: Whether the extracted states stay on disk.
    """

    sentences: int = 2_000
    method: CKAMethod = field(default_factory=CKAMethod)
    batch_rows: int | None = None
    random_seeds: int = 5
    effort: Effort = field(default_factory=Effort)
    seed_twin: Path | None = None
    control: Path | None = None
    qa_data: str | None = None
    cache_dir: Path | None = None
    device: str | None = None
    seed: int = 0
    keep_states: bool = False

    def __post_init__(self) -> None:
        if self.sentences < LEAST_SENTENCES:
            raise UsageError(f"--sentences must be at least {LEAST_SENTENCES}, not {self.sentences}")
        if self.random_seeds < 0:
            raise UsageError(f"--random-seeds must be 0 or more, not {self.random_seeds}")
        if self.batch_rows is not None and not self.method.debiased:
            raise UsageError("batches add up the debiased HSIC: leave batch_rows out, or use --estimator debiased")


@dataclass(frozen=True)
class Subject:
    """What is analysed: its history, the sentences as it reads them, and the trunks of its curves.

    Attributes:
        missing: Name of a null comparison -> why it is not there.
    """

    timeline: History
    inputs: EncodedSentences
    cast: Cast
    missing: dict[str, str]


def analyse_run(
    run_dir: Path,
    *,
    against: Path | None = None,
    out_dir: Path | None = None,
    options: CKAOptions = CKAOptions(),
    progress: Progress = NoProgress(),
    should_stop: Callable[[], bool] = lambda: False,
) -> TemporalCKA:
    """Temporal CKA of one run, or of two on the same sentences. It is also written to ``out_dir``.

    Args:
        run_dir: A run directory, finished or not, as long as it has a trunk.
        against: Another run to compare with, of any size and tokenizer.
        out_dir: Where results go; by default ``analysis/temporal_cka`` in ``run_dir``.
        options: How they are compared.
        progress: Shown to a person while states are extracted.
        should_stop: Asked after each trunk, and between comparisons. True ends the analysis.

    Raises:
        StopRequested: ``should_stop`` was true. The extracted states stay, and the same call goes on with them.
        RunDirectoryError: A path is no run directory, or one without a trunk.
        WeightsError: A weights file is damaged.
        DataError: The questions cannot be loaded, or hold too few sentences.
        UsageError: ``seed_twin`` or ``control`` did not start from the same trunk.
    """
    timelines = [read_timeline(RunDirectory.open(path)) for path in (run_dir, against) if path is not None]
    run = timelines[0].run
    spec = dataclasses.replace(run.spec, qa_data=options.qa_data) if options.qa_data else run.spec
    readers = [(timeline.tokenizer, timeline.model.sequence_length) for timeline in timelines]
    probe, notes, fingerprint = choose_probe(spec, readers, options)
    notes = [note for timeline in timelines if (note := _data_note(timeline.run, fingerprint))] + notes
    subjects = [_subject(timeline, probe, options, twins=i == 0) for i, timeline in enumerate(timelines)]
    study = CKAStudy(subjects, probe, notes, options, should_stop)
    return study.run(out_dir or run_dir / FILES.folder, progress, should_stop)


# What is compared -------------------------------------------------------------------------------


def choose_probe(
    spec: ExperimentSpec, readers: Sequence[tuple[TextTokenizer | HuggingFaceTokenizer, int]], options: CKAOptions
) -> tuple[ProbeSet, list[str], str]:
    """The sentences, all short enough for every reader.

    Args:
        spec: Its questions are read.
        readers: Tokenizer and longest sequence of every model.

    Returns:
        The sentences, what a reader of results should know about them, and the fingerprint of the questions.

    Raises:
        DataError: The questions cannot be loaded, or hold too few sentences.
        UsageError: Too few are short enough.
    """
    dataset = load_qa(spec, options.cache_dir)
    notes = []
    chosen = choose_sentences(dataset, options.sentences, options.seed)
    if len(chosen.sentences) < options.sentences:
        notes.append(
            f"test and validation hold {chosen.available} sentences, fewer than the {options.sentences} asked for"
        )
    keep = np.ones(len(chosen.sentences), dtype=bool)
    for tokenizer, max_tokens in readers:
        keep &= fitting(chosen.sentences, tokenizer, max_tokens)
    if not keep.all():
        notes.append(f"{int((~keep).sum())} sentences were left out: longer than a trunk's sequence length")
    if keep.sum() < LEAST_SENTENCES:
        raise UsageError(f"only {int(keep.sum())} sentences fit the trunks' sequence length: too few to compare")
    kept = tuple(s for s, k in zip(chosen.sentences, keep, strict=True) if k)
    return ProbeSet(kept, chosen.available), notes, dataset.fingerprint


def _data_note(run: RunDirectory, fingerprint: str) -> str | None:
    if not has_other_questions(run, fingerprint):
        return None
    return f"{run.run_id} was trained on other questions than the sentences come from: it may have seen some of them"


def _subject(timeline: Timeline, probe: ProbeSet, options: CKAOptions, *, twins: bool) -> Subject:
    """One run with the trunks that it is compared with. Only the first run has ``twins`` and control runs."""
    missing: dict[str, str] = {}
    noise: dict[int, TrunkSource] = {}
    if not timeline.finetuned:
        missing["noise"] = "there is no finetuning checkpoint"
    elif timeline.trunk_never_moved:
        missing["noise"] = "the trunk did not move"
    else:
        first = timeline.start_index + 1
        noise = {first + i: matched_noise(timeline, p, options.seed + i) for i, p in enumerate(timeline.finetuned)}
    twin, control = (_sibling(timeline, path, name) if twins else None for path, name in _siblings(options))
    if twins and twin is None:
        missing["twin"] = "no twin was given (--seed-twin RUN: the same trunk finetuned under another --seed)"
    if twins and control is None:
        missing["control"] = "no control run was given (--control RUN: the same trunk finetuned on control labels)"
    if options.random_seeds < 1:
        missing["random"] = "no untrained trunks were asked for"
    cast = Cast(
        checkpoints=tuple(point.source for point in timeline.checkpoints),
        start=timeline.start_index,
        random=tuple(random_trunks(timeline, options.random_seeds)),
        noise=noise,
        twin=twin.last.source if twin else None,
        control=tuple(point.source for point in control.finetuned) if control else (),
    )
    return subject_of(timeline, encode_sentences(probe.sentences, timeline.tokenizer), cast, missing)


def subject_of(history: History, inputs: EncodedSentences, cast: Cast, missing: dict[str, str]) -> Subject:
    """A subject, its trunks told apart by what they read, too: with another tokenizer, weights have other states."""
    return Subject(history, inputs, cast.keyed(inputs.fingerprint), missing)


def _siblings(options: CKAOptions) -> list[tuple[Path | None, str]]:
    return [(options.seed_twin, "--seed-twin"), (options.control, "--control")]


def _sibling(timeline: Timeline, path: Path | None, flag: str) -> Timeline | None:
    """The timeline of a run that must have started from the same trunk."""
    if path is None:
        return None
    sibling = read_timeline(RunDirectory.open(path))
    if sibling.start.source.key != timeline.start.source.key:
        raise UsageError(
            f"{flag} {path}: it did not start from the trunk of {timeline.run.run_id}: finetune that one, with "
            f"--skip-pretrain --pretrained-model-path {timeline.run.run_id}/{timeline.run.trunk_path.name}"
        )
    if not sibling.finetuned or sibling.trunk_never_moved:
        raise UsageError(f"{flag} {path}: it holds no finetuned trunk: give a run without --freeze-llm")
    return sibling


class CKAStudy(Study[States, TemporalCKA]):
    """A cell is the states of one trunk on its run's inputs. Its file is too large for JSON, and goes at the end."""

    files = FILES
    cells_folder = "states"
    noun = "trunk"
    steps = "trunks"

    def __init__(
        self,
        subjects: Sequence[Subject],
        probe: ProbeSet,
        notes: list[str],
        options: CKAOptions,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._subjects, self._probe, self._notes, self._options = subjects, probe, notes, options
        self._should_stop = should_stop
        self.keep_cells = options.keep_states
        # Keyed by the trunk's key, so that equal weights are extracted once.
        self._sources = {source.key: (source, s.inputs) for s in subjects for source in s.cast.everyone()}

    def cells(self, folder: Path) -> list[Cell[States]]:
        device = select_device(self._options.device)
        return [
            Cell(key, key, partial(_states, source, inputs, folder, device))
            for key, (source, inputs) in self._sources.items()
        ]

    def stored(self, cell: Cell[States], folder: Path) -> States | None:
        return None  # extract_states takes what is there

    def store(self, cell: Cell[States], made: States, folder: Path) -> None:
        """The states are in their file already."""

    def result(self, made: Sequence[States]) -> TemporalCKA:
        states = dict(zip(self._sources, made, strict=True))
        return _result(self._subjects, states, self._probe, self._notes, self._options, self._should_stop)


def _states(
    source: TrunkSource, inputs: EncodedSentences, folder: Path, device: torch.device, progress: Progress
) -> States:
    return extract_states(source, inputs, folder, device=device)


# The comparison ---------------------------------------------------------------------------------


def _result(
    subjects: Sequence[Subject],
    states: dict[str, States],
    probe: ProbeSet,
    notes: list[str],
    options: CKAOptions,
    should_stop: Callable[[], bool],
) -> TemporalCKA:
    views: list[dict[str, View]] = [{} for _ in subjects]
    cross: dict[str, dict[str, np.ndarray]] = {}
    owners = subjects[0].inputs.predicate_sentences
    for rows in ROWS:
        blocks = np.arange(len(probe.sentences)) if rows == "sentence" else owners
        if len(np.unique(blocks)) < LEAST_SENTENCES:
            notes.append(f"no {rows} rows: only {len(np.unique(blocks))} sentences have any")
            continue
        for number, which in enumerate(PASSES, start=1 + ROWS.index(rows) * len(PASSES)):
            if should_stop():
                raise StopRequested("stopped between comparisons; the same command goes on with the extracted states")
            name, how = f"{rows}/{which}", "as they are" if which == "raw" else "without token types"
            logger.info(
                "comparison %d of %d, of %d trunks: %s rows, %s",
                number, len(ROWS) * len(PASSES), len(states), rows, how,
            )  # fmt: skip
            atlas = Atlas.chart(states, rows, which, blocks, options.method, options.batch_rows)
            for subject, by_name in zip(subjects, views, strict=True):
                by_name[name] = view(atlas, subject.cast, dataclasses.replace(options.effort, seed=options.seed))
            if len(subjects) == 2:
                cross[name] = _cross(atlas, *(subject.cast for subject in subjects))
    return TemporalCKA(
        timelines=tuple(subject.timeline for subject in subjects),
        views=tuple(views),
        cross=cross,
        missing=tuple(subject.missing for subject in subjects),
        n_sentences=len(probe.sentences),
        n_predicates=len(owners),
        probe_fingerprint=probe.fingerprint,
        notes=tuple(notes),
        settings=_settings(options),
    )


def _cross(atlas: Atlas, left: Cast, right: Cast) -> dict[str, np.ndarray]:
    """CKA of the first run's levels (rows) with the second's, at the start and at the last checkpoint of both."""
    ends: dict[str, Callable[[Cast], TrunkSource]] = {
        "start": lambda cast: cast.checkpoints[cast.start],
        "last": lambda cast: cast.checkpoints[-1],
    }
    return {name: atlas.block(pick(left), pick(right)) for name, pick in ends.items()}


def _settings(options: CKAOptions) -> dict[str, Any]:
    """What another analysis must share to be comparable."""
    effort = dataclasses.asdict(options.effort)
    effort.pop("seed")
    return {
        **dataclasses.asdict(options.method),
        "batch_rows": options.batch_rows,
        "sentences": options.sentences,
        "random_seeds": options.random_seeds,
        "seed": options.seed,
        **effort,
    }
