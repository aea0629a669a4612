"""One experiment, from its spec to its result file; the same code locally and on Modal.

The order of things makes it safe. Everything that a user can get wrong is checked before a run directory exists.
``spec.json`` is written first, the manifest and ``finetune_stats.json`` last. Each phase leaves a file that says it is
done. Starting the same spec again goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from emergence.answering.probe_loop import PHASE as PROBE_PHASE
from emergence.data.qa_encoding import UNCOUNTED_MARKS
from emergence.data.sources import load_qa
from emergence.errors import EmergenceError, RunDirectoryError, machine_errors_in_one_line
from emergence.experiment.belonging import history_position, refuse_damaged_records
from emergence.experiment.claims import other_run
from emergence.experiment.inputs import (
    GivenWeights,
    LoadQuestions,
    find_matching_trunk,
    read_inputs,
    refuse_changed_text,
    refuse_other_weights,
)
from emergence.experiment.locks import read_holder
from emergence.experiment.manifest import MANIFEST_FILE
from emergence.experiment.outcome import common_facts, conclude
from emergence.experiment.phases import (
    Session,
    finetune_whole,
    help_pretrain,
    obtain_trunk,
    probe_frozen,
    probe_published,
    sweep_states,
)
from emergence.experiment.result import RunResult, load_result
from emergence.experiment.run_directory import CHECKPOINT_FOLDER, SPEC_FILE
from emergence.experiment.store import RunDirectory, RunStore
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.memory import free_memory, refuse_if_too_large
from emergence.training.context import Context
from emergence.training.determinism import make_deterministic
from emergence.training.distributed import Workers, workers_from_environment
from emergence.training.precision import gpu_memory, resolve_precision, select_device
from emergence.training.recording import NoProgress, NullRecorder, Progress, Recorder

logger = logging.getLogger(__name__)


def run_experiment(
    spec: ExperimentSpec,
    store: RunStore,
    *,
    cache_dir: Path,
    run_id: str | None = None,
    fresh: bool = False,
    trunk: str | None = None,
    device: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    alive: Callable[[], object] = lambda: None,
    before_reading: Callable[[], None] = lambda: None,
    on_commit: Callable[[], None] | None = None,
    on_open: Callable[[RunDirectory, str], None] = lambda run, what: None,
    progress: Progress = NoProgress(),
    wrap_recorder: Callable[[Recorder, RunDirectory], Recorder] = lambda recorder, run: recorder,
    load_questions: LoadQuestions = load_qa,
) -> RunResult | None:
    """Run ``spec`` to its end, or go on with it.

    Args:
        spec: What to run.
        store: Where run directories are.
        cache_dir: Where derived data (tokenizers, token streams, downloads) is kept.
        run_id: Name of the run to create or to go on with. None: a finished run of the same experiment is returned
            as it is, and an unfinished one goes on.
        fresh: Take no trunk from another run. Without ``run_id``, start a new run in any case.
        trunk: The run whose trunk a sweep means this one to take. A run whose text has changed since is refused.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default the GPU, if there is one.
        should_stop: Asked after every step. True saves a checkpoint and raises ``StopRequested``.
        alive: Called after every batch of work that does not stop in the middle, such as scoring.
        before_reading: Called when flags and memory are right, before any data is read. It may refuse.
        on_commit: Called when a checkpoint or the result is safely on disk.
        on_open: Called with the run directory and ``new``, ``resumed`` or ``finished``.
        progress: Shows a person how far the run is.
        wrap_recorder: May put a live sink around the file-backed recorder.
        load_questions: Reads the questions of a spec.

    Returns:
        The result; None in every worker of a torchrun group but the first.

    Raises:
        UsageError: Flags, data or weights cannot work, or memory cannot suffice. Nothing has been written.
        EmergenceError: Memory ran out all the same.
        StopRequested: ``should_stop`` was true.
        RunDirectoryError: Another process writes to the run, or its data changed.
    """
    if run_id is None and not fresh and (finished := store.find_finished(spec)) is not None:
        refuse_other_weights(finished)
        result = _stored_result(finished)
        on_open(finished, "finished")
        return result
    make_deterministic()
    with machine_errors_in_one_line(), workers_from_environment() as workers:
        place = select_device(device)
        if spec.model is None:  # what a published model needs is known when its files are
            refuse_if_too_large(spec, free_memory(), gpu_memory(place))
        if workers.is_first:
            begun = _begun(spec, store, run_id, fresh)
            # One that somebody writes to is refused by its lock, and may look damaged just now.
            if begun is not None and not begun.is_finished and read_holder(begun.path) is None:
                refuse_damaged_records(begun)
            before_reading()
        inputs = read_inputs(spec, store, cache_dir, place, load_questions)
        refuse_changed_text(store, trunk, inputs.text.fingerprint if inputs.text else None)
        run, what = _open(spec, store, run_id, fresh, workers)
        with run.lock() if workers.is_first else nullcontext():
            if workers.is_first:
                on_open(run, what)
            if run.is_finished:
                return _stored_result(run)
            session = Session(
                spec=spec,
                run=run,
                inputs=inputs,
                cache_dir=cache_dir,
                context=Context(
                    device=place,
                    precision=resolve_precision(spec.config.pretrain.precision, place),
                    recorder=wrap_recorder(run.recorder(), run) if workers.is_first else NullRecorder(),
                    checkpointer=run.checkpointer(on_commit, run.identity(inputs.tokenizer.fingerprint)),
                    should_stop=should_stop,
                    alive=alive,
                    progress=progress,
                ),
                workers=workers,
            )
            matching = None if fresh or run.trunk_path.is_file() else find_matching_trunk(spec, store, inputs)
            if not workers.is_first:
                help_pretrain(session, matching)
                return None
            result = _run_phases(session, matching)
            if on_commit:
                on_commit()
            return result


def _stored_result(run: RunDirectory) -> RunResult:
    """The result of a finished run, as its manifest has it; says so if other files of the run are damaged.

    Raises:
        RunDirectoryError: It is not what the manifest says, without a manifest, or not of this run. Nothing is changed.
    """
    try:
        path = run.checked(run.stats_path.name)
    except RunDirectoryError as error:
        cure = f"restore the file, or start anew with --fresh; emergence verify-run {run.path} says more"
        raise RunDirectoryError(f"{error}: {cure}") from None
    result = load_result(path)
    if problem := other_run(run, result):
        raise RunDirectoryError(
            f"{path} is not of this run: {problem}: remove it, and {MANIFEST_FILE} if it came with it; "
            "the same command then goes on with the run",
            exit_code=2,
        )
    if not (run.path / MANIFEST_FILE).exists():  # it is written first
        raise RunDirectoryError(
            f"{run.path} has a result and no {MANIFEST_FILE}, so nothing says what its files were: put that back, or "
            f"remove {path.name}, and the same command goes on with the run",
            exit_code=2,
        )
    if problems := run.differing_sizes():
        logger.warning("%s is damaged: %s; emergence verify-run %s says more", run.run_id, problems[0], run.path)
    return result


def _run_phases(session: Session, matching: GivenWeights | None) -> RunResult:
    """Trunk, then finetuning or probing, then the result, each written when it is complete."""
    run, inputs = session.run, session.inputs
    _refuse_other_marks(session)
    run.record_data(inputs.fingerprints, **inputs.facts())
    run.write_tokenizer(inputs.tokenizer.to_json())
    if inputs.published is not None and inputs.questions is not None:
        sweep_states(session)
        trained, loss = probe_published(session, inputs.published, inputs.questions)
        return _finish(session, conclude(session, None, trained, inputs.questions, loss))
    weights = obtain_trunk(session, matching)
    if inputs.questions is None:
        session.context.recorder.rewind(history_position(weights))
        result = RunResult.from_spec(session.spec, run.run_id, **common_facts(session, weights, None))
    else:
        train = probe_frozen if session.spec.freeze_llm else finetune_whole
        trained = train(session, weights, inputs.questions)
        result = conclude(session, weights, trained, inputs.questions)
    return _finish(session, result)


def _finish(session: Session, result: RunResult) -> RunResult:
    """Write the result, after which nothing has to be resumed."""
    session.run.write_stats(result.to_dict(), session.identity, session.context.recorder.position())
    session.context.checkpointer.clear()
    return result


def _refuse_other_marks(session: Session) -> None:
    """Refuse to go on probing with other marks than the first probes were fitted with.

    Versions that did not count tokens took a newline and a quotation mark whatever the text held.

    Raises:
        RunDirectoryError: The marks differ. The message says what to do.
    """
    run, questions = session.run, session.inputs.questions
    if questions is None or not session.spec.freeze_llm or not session.context.checkpointer.has(PROBE_PHASE):
        return
    stored = run.read_data().get("marks")
    texts = UNCOUNTED_MARKS if stored is None else tuple(mark["text"] for mark in stored.values())
    if session.spec.config.finetune.marks != "special" and texts != questions.marks.texts:
        raise RunDirectoryError(
            f"{run.run_id}: its probes were begun with the marks {' and '.join(map(repr, texts))}, by another version "
            "or on other text: start it anew with --fresh"
        )


def _open(
    spec: ExperimentSpec, store: RunStore, run_id: str | None, fresh: bool, workers: Workers
) -> tuple[RunDirectory, str]:
    """The run to write to, and whether it is ``new``, ``resumed`` or ``finished``. The first worker makes it."""
    if not workers.is_first:
        workers.wait()
    run = _begun(spec, store, run_id, fresh and workers.is_first)
    what = "new" if run is None else "finished" if run.is_finished else "resumed"
    if run is None:
        if run_id is None and not fresh:
            _warn_of_unreadable(store)
        run = store.create(spec, run_id=run_id)
    if workers.is_first:
        workers.wait()
    return run, what


def _begun(spec: ExperimentSpec, store: RunStore, run_id: str | None, fresh: bool) -> RunDirectory | None:
    """The run to go on with; None for a new one.

    Raises:
        EmergenceError: ``run_id`` names a run of another experiment.
    """
    if run_id is None:
        return None if fresh else store.find_unfinished(spec)
    run = store.open(run_id) if store.exists(run_id) else None
    if run is not None and run.experiment_id != spec.experiment_id:
        raise EmergenceError(f"{run.run_id} is a run of another experiment: choose another run id")
    return run


def _warn_of_unreadable(store: RunStore) -> None:
    """Name the folders with checkpoints whose spec cannot be read: one may be the run that the user means."""
    for run_id in store.run_ids():
        if not (store.root / run_id / CHECKPOINT_FOLDER).is_dir():
            continue
        try:
            store.open(run_id)
        except EmergenceError as error:
            logger.warning(
                "%s: nothing goes on from the checkpoints in %s: put back its %s, or remove the folder",
                error, store.root / run_id, SPEC_FILE,
            )  # fmt: skip
