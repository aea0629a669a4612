"""A process of a local sweep: jobs come in, answers go out, as JSON through pipes.

Where it can be forked, that is from a server that has imported everything once (``multiprocessing``'s forkserver), so
a cell costs no seconds of imports. One that has finetuned runs the next cell, too, and has the questions already. It
ends with its sweep, even if that is killed, so that no writer stays behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emergence.errors import STOPPED, EmergenceError, UsageError, is_out_of_memory, require_packages
from emergence.spec.adapters import lora_rank
from emergence.spec.experiment import ExperimentSpec
from emergence.wording import say

if TYPE_CHECKING:
    from emergence.data.records import QADataset

#: Modules that the fork server imports once. torch's compiler is none of them: only what
#: :func:`emergence.training.execution.wants_compilation` names needs it, and imports it then, for a second or two.
PRELOAD = ("emergence.sweep.worker", "emergence.report.terminal", "emergence.experiment.run")
#: Exit code of a process whose sweep is gone, and of one that failed unexpectedly.
ABANDONED, CRASHED = 3, 1
_WATCH = "end with the sweep"


def serve(jobs: Connection, answers: Connection) -> None:
    """Do one job after the other, until one fails or no more can come: read the data of a sweep, run a cell."""
    questions = _Questions()
    with contextlib.suppress(EOFError, BrokenPipeError):  # whoever waited for an answer may be gone
        try:
            while True:
                job = json.loads(jobs.recv_bytes())
                if not (check_inputs if "specs" in job else run_cell)(job, answers, questions):
                    return
        except KeyboardInterrupt:
            _answer(answers, error="stopped between two runs; the same command goes on from here", exit_code=STOPPED)


class _Questions:
    """The questions of the last data set that a cell asked for."""

    def __init__(self) -> None:
        self._read: dict[str, QADataset] = {}

    def load(self, spec: ExperimentSpec, cache_dir: Path | None) -> QADataset:
        """:func:`emergence.data.sources.load_qa`, once for cells with the same data."""
        from emergence.data.sources import load_qa

        which = _identity(spec, "finetune_data", "qa_data")
        if which not in self._read:
            self._read = {which: load_qa(spec, cache_dir)}  # cells of one data set mostly follow each other
        return self._read[which]


def run_cell(job: Mapping[str, Any], answers: Connection, questions: _Questions) -> bool:
    """Run ``job["spec"]`` under ``job["runs_dir"]``. The answer is its run id, or its error and exit code.

    Returns:
        Whether it was run.
    """
    with _OwnProcess(job, answers):
        from emergence.experiment.run import run_experiment
        from emergence.experiment.stop_switch import StopSwitch
        from emergence.experiment.store import CACHE_FOLDER, RunStore
        from emergence.report.terminal import describe_result
        from emergence.training.recording import TerminalProgress, plain_messages

        runs_dir = Path(job["runs_dir"])
        with plain_messages(), StopSwitch() as should_stop:
            result = run_experiment(
                ExperimentSpec.from_dict(job["spec"]),
                RunStore(runs_dir),
                cache_dir=runs_dir / CACHE_FOLDER,
                trunk=job["trunk"],
                fresh=job.get("fresh", False),
                should_stop=should_stop,
                on_open=lambda run, what: say(f"{what} run {run.run_id}", err=True),
                progress=TerminalProgress(),
                load_questions=questions.load,
            )
        if result is None or result.run_id is None:
            raise UsageError("a sweep runs each cell in one process: start it without torchrun")
        if not job.get("brief"):
            say(describe_result(result, runs_dir), err=True)
        f1 = result.estimate("test", "f1_tokens")
        headline = {"test_f1": f1.point} if f1 and math.isfinite(f1.point) else {}
        _answer(answers, run_id=result.run_id, headline=headline)
        return True
    return False


def check_inputs(job: Mapping[str, Any], answers: Connection, questions: _Questions) -> bool:
    """Read all data that ``job["specs"]`` name into the cache, once each. The answer is the first error, if any.

    Returns:
        Whether all is as it should be.
    """
    with _OwnProcess(job, answers):
        from emergence.experiment.store import CACHE_FOLDER
        from emergence.training.recording import plain_messages

        runs_dir = Path(job["runs_dir"])
        reader = _Reader(runs_dir, runs_dir / CACHE_FOLDER, job["trunks"], questions)
        with plain_messages():
            for name, raw in job["specs"]:
                try:
                    reader.check(ExperimentSpec.from_dict(raw))
                except EmergenceError as error:
                    kind = UsageError if isinstance(error, UsageError) else EmergenceError
                    raise kind(f"{name}: {error}") from None
        _answer(answers, read=True)
        return True
    return False


class _Reader:
    """Reads data as runs would, each once.

    Args:
        trunks: Pretrain id to the run whose trunk is to be used.
        questions: Keeps the questions for the cells.
    """

    def __init__(self, runs_dir: Path, cache: Path, trunks: Mapping[str, str], questions: _Questions) -> None:
        self.runs_dir, self.cache, self.trunks, self.questions = runs_dir, cache, trunks, questions
        self.texts: dict[str, str] = {}
        self.n_questions: dict[str, int] = {}
        self.models: set[tuple[str, str | None]] = set()

    def check(self, spec: ExperimentSpec) -> None:
        """Raise what the run would raise.

        Raises:
            UsageError: Data is missing, malformed, too small, or not what a trunk to be used was trained on.
        """
        from emergence.data.sources import prepare_pretraining_data
        from emergence.experiment.inputs import refuse_changed_text
        from emergence.experiment.store import RunStore

        if lora_rank(spec.adapter):
            require_packages(f"adapter {spec.adapter}", "peft")
        if spec.model:
            self._check_model(spec.model, spec.revision)
            self._check_questions(spec)
            return
        text = _identity(spec, "pretrain_data", "pretrain_text", "nq_data", vocabulary=True)
        if text not in self.texts:
            self.texts[text] = prepare_pretraining_data(spec, self.cache).fingerprint
        if not spec.random_baseline:
            refuse_changed_text(RunStore(self.runs_dir), self.trunks.get(spec.pretrain_id), self.texts[text])
        self._check_questions(spec)

    def _check_model(self, model: str, revision: str | None) -> None:
        """Fetch a published model, and refuse what cannot be probed."""
        from emergence.model.huggingface.files import find_model

        if (model, revision) not in self.models:
            find_model(model, revision)
            self.models.add((model, revision))

    def _check_questions(self, spec: ExperimentSpec) -> None:
        which = _identity(spec, "finetune_data", "qa_data")
        if which not in self.n_questions:
            self.n_questions[which] = len(self.questions.load(spec, self.cache).splits["train"])
        if (spec.finetune_samples or 0) > self.n_questions[which]:
            raise UsageError(
                f"there are {self.n_questions[which]:,} training questions, so samples (--finetune-samples) "
                f"cannot be {spec.finetune_samples:,}: leave the cell out with --only, or give more data"
            )


def _identity(spec: ExperimentSpec, *fields: str, vocabulary: bool = False) -> str:
    """Equal for specs that read the same data."""
    content = [getattr(spec, name) for name in ("data", *fields)]
    world = spec.config.to_dict()["microworld"] if spec.data == "microworld" else None
    return json.dumps([content, world, spec.config.model.vocab_size if vocabulary else None])


class _OwnProcess:
    """Surrounds a task's process: output goes to the log, the sweep's end ends it, every error is an answer."""

    def __init__(self, job: Mapping[str, Any], answers: Connection) -> None:
        self.job, self.answers = job, answers

    def __enter__(self) -> None:
        if hasattr(os, "setsid") and os.getsid(0) != os.getpid():
            os.setsid()  # Ctrl-C goes to the sweep, which passes it on once
        os.chdir(self.job["cwd"])
        log = os.open(self.job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        if not any(thread.name == _WATCH for thread in threading.enumerate()):
            threading.Thread(target=_end_with_parent, name=_WATCH, daemon=True).start()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is not None and is_out_of_memory(error):
            error = EmergenceError(f"out of memory: fewer runs at a time (--jobs), or smaller ones ({error})")
        # The answer first: the log may be what failed, on a full disk.
        if isinstance(error, EmergenceError):
            _answer(self.answers, error=str(error), exit_code=error.exit_code)
        elif error is not None:
            message = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
            code = STOPPED if isinstance(error, KeyboardInterrupt) else CRASHED
            _answer(self.answers, error=message, exit_code=code)
        with contextlib.suppress(OSError):
            if isinstance(error, EmergenceError):
                say(f"error: {error}", err=True)
            elif error is not None:
                traceback.print_exception(error)
            sys.stdout.flush()
            sys.stderr.flush()
        return True


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(ABANDONED)


def _answer(answers: Connection, **content: Any) -> None:
    answers.send_bytes(json.dumps(content).encode())


def last_lines(path: Path, count: int = 6, most_bytes: int = 20_000) -> Sequence[str]:
    """The last lines of a log that are not empty; none if it cannot be read."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - most_bytes))
            text = handle.read(most_bytes).decode(errors="replace")
    except OSError:
        return []
    return [line.rpartition("\r")[2] for line in text.split("\n") if line.strip()][-count:]
