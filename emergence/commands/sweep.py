"""``emergence sweep`` and its status, resume and cancel, without the parsing of flags."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emergence.errors import EmergenceError, UnreachableError, UsageError, install_line, require_packages
from emergence.experiment.store import refuse_if_no_folder
from emergence.plain import plain
from emergence.report.fitted import fitted_table, fitted_text, is_terminal
from emergence.spec.cost import ask_if_dear
from emergence.spec.local_time import ask_if_long
from emergence.spec.matrix import load_matrix, matrix_path
from emergence.studies.revisions.record import load_revisions
from emergence.sweep.existing import Existing, mark_existing
from emergence.sweep.graph import Graph, Task, build_tasks
from emergence.sweep.place import Place
from emergence.sweep.plan import SweepPlan
from emergence.sweep.record import Record, find_record, load_record, record_name, record_path
from emergence.wording import counted, did_you_mean


def place_of(on: str) -> Place:
    """The place that ``--on`` or a sweep's record names.

    Raises:
        UsageError: There is no place of that name.
    """
    if on == "modal":
        from emergence.remote.sweep import ModalPlace

        return ModalPlace()
    if on == "local":
        from emergence.sweep.local import LocalPlace

        return LocalPlace()
    raise UsageError(f"no place {on!r} to run a sweep at; {did_you_mean(on, ('local', 'modal'))}")


@dataclass(frozen=True)
class Options:
    """What steers a sweep and changes no result.

    Attributes:
        jobs: Runs at a time. dry_run: Show the plan and stop. max_cost: Refuse an estimate above it.
        yes: Do not ask before a long or costly launch. as_json: Print JSON instead of text.
        gpu: On Modal, the GPU in place of the configurations'.
        out, say: Where results go, and where progress goes.
    """

    jobs: int | None = None
    dry_run: bool = False
    max_cost: float | None = None
    yes: bool = False
    as_json: bool = False
    gpu: str | None = None
    out: Callable[[str], None] = field(default=lambda text: None)
    say: Callable[[str], None] = field(default=lambda text: None)


def start(
    matrix: str,
    on: str,
    runs_dir: Path,
    options: Options,
    *,
    only: Sequence[str] = (),
    seeds: int | None = None,
    data: Mapping[str, str | None] | None = None,
    set_values: Sequence[str] = (),
) -> int:
    """Run a matrix, or what is left of it. Returns the exit code.

    Args:
        matrix: Path of a matrix file, or its name in ``configs/``.
        on: ``local`` or ``modal``.
        only, seeds, data, set_values: As in :meth:`emergence.spec.matrix.Matrix.select`.

    Raises:
        EmergenceError: Nothing was started, or the sweep was stopped.
    """
    refuse_if_no_folder(runs_dir)
    checked = load_matrix(matrix_path(matrix))
    tasks = build_tasks(checked.select(only, seeds, data, set_values))
    name = record_name(checked.name, on, tasks)
    record = Record(name, record_path(runs_dir, name), on, _jobs(options, on), os.getcwd(), Graph(tasks))  # noqa: PTH109
    record.gpu = options.gpu
    if record.path.exists():
        _keep_what_is_known(record, load_record(record.path))
    return _go_on(record, tasks, options)


def resume(runs_dir: Path, name: str | None, options: Options) -> int:
    """Go on with a sweep, trying again what failed or was stopped. Returns the exit code."""
    record = find_record(runs_dir, name)
    if options.jobs is not None:
        record.jobs = _jobs(options, record.on)
    record.gpu = options.gpu or record.gpu
    return _go_on(record, list(record.graph.tasks.values()), options)


def _plan_text(plan: SweepPlan) -> str:
    """The plan, fitted to the window where a person reads it."""
    if not (plan.left and is_terminal()):
        return plan.text()
    titles, *rows = plan.rows()
    spare = ("finetuning tokens", "GPU", "seeds", "pretraining tokens")
    table = fitted_table(titles, rows, left=2, spare=spare)
    return f"{table}\n\n{fitted_text(plan.summary().splitlines())}"


def _refuse_ignored(place: Place, options: Options) -> None:
    """Refuse flags that change nothing where a sweep runs, since whoever gives them expects that they do."""
    if place.is_rented:
        return
    if options.max_cost is not None:
        raise UsageError("--max-cost limits what Modal charges, and this machine charges nothing: add --on modal")
    if options.gpu and not options.dry_run:
        raise UsageError("--gpu names a GPU of Modal's, and this sweep runs on this machine: add --on modal")


def _jobs(options: Options, on: str) -> int:
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {options.jobs}")
    return options.jobs or place_of(on).jobs


def _keep_what_is_known(record: Record, before: Record) -> None:
    """Keep the times, logs and calls that an earlier call of the same command noted."""
    record.created, record.conductor, record.app = before.created, before.conductor, before.app
    record.graph.status.update({k: s for k, s in before.graph.status.items() if k in record.graph.tasks})


def _go_on(record: Record, tasks: list[Task], options: Options) -> int:
    place = place_of(record.on)
    _refuse_ignored(place, options)
    if not (place.is_rented or options.dry_run):
        require_packages("a sweep on this machine", "torch", "numpy", "scipy", "tokenizers")
    try:
        existing = place.existing(record.runs_dir)
    except UnreachableError as error:
        if not options.dry_run:
            raise
        options.say(f"note: {error}; what is done already is not known, so the plan is for all of it")
        existing = Existing()
    before, graph = record.graph.status, mark_existing(tasks, existing)
    for key, status in graph.status.items():  # the same run as on record: keep how long it took
        if status.state == "done" and key in before and before[key].run_id == status.run_id:
            before[key].state = "done"
            graph.status[key] = before[key]
    record.graph = graph
    plan = SweepPlan.of(graph, place, record.jobs, record.gpu)
    if options.as_json and options.dry_run:
        options.out(json.dumps(plan.to_dict(), indent=2))
    elif not options.as_json:
        options.out(_plan_text(plan))
    for note in _unexamined(record.runs_dir, tasks):
        options.say(note)
    plan.refuse_if_too_large()
    plan.refuse_if_too_dear(options.max_cost)
    if options.dry_run:
        options.say("dry run: nothing was started")
        return 0
    if plan.left:
        if not place.is_rented:
            ask_if_long(plan.here, plan.machine, options.yes)
        ask_if_dear(plan.dollars, options.yes)
        if plan.dollars_to_agree_to is None:
            ask_if_dear(None, options.yes, options.max_cost)
        record.max_cost = options.max_cost
        options.say(f"record       {record.path}")
        place.run(record, existing, options.say)
    elif not record.path.exists():
        record.save()
    return conclude(record, options)


def _unexamined(runs_dir: Path, tasks: Sequence[Task]) -> Iterator[str]:
    """A note for each published model of which several revisions are probed that nobody has looked at."""
    asked: dict[str, set[str]] = {}
    for task in tasks:
        if task.spec.model is not None and task.spec.revision is not None:
            asked.setdefault(task.spec.model, set()).add(task.spec.revision)
    for model, names in asked.items():
        known = load_revisions(runs_dir, model)
        seen = {revision.name for revision in known.revisions} if known else set()
        if len(names) > 1 and (unseen := names - seen):
            yield (
                f"note: {counted(len(unseen), 'revision')} of {model} may not be what they say, and stay in table and "
                f"curves until they are examined: emergence revisions {model} --runs-dir {runs_dir}"
            )


def conclude(record: Record, options: Options) -> int:
    """Print the table of the sweep's cells, and what failed. Returns the exit code."""
    graph = record.graph
    failed = failures(graph)
    if options.as_json:
        options.out(json.dumps(status_dict(record), indent=2))
    else:
        options.out("\n" + results_table(record))
        options.out(f"report       emergence report {record.runs_dir}")
    for line in failed:
        options.say(line)
    if failed:
        options.say(f"again        emergence sweep resume {record.name} --runs-dir {record.runs_dir}")
    return 1 if failed else 0


def results_table(record: Record) -> str:
    """The results table of the cells that are done. A laptop without numpy shows their headline alone."""
    graph = record.graph
    done = [task for task in graph.in_state("done") if not task.is_pretraining]
    if not done:
        return "no cell is done: no table yet"
    try:
        from emergence.findings.table import build_table
        from emergence.report.table_formats import to_markdown, to_terminal
    except ImportError:
        lines = [f"{t.label:<24} {graph.status[t.key].run_id}  {_scores(graph, t)}" for t in done]
        return "\n".join([*lines, "", f"the full table needs: {install_line('numpy')}"])
    try:
        only = {graph.status[task.key].run_id or "" for task in done}
        table = build_table(record.runs_dir, only=only)
        return to_terminal(table) if is_terminal() else to_markdown(table)
    except EmergenceError as error:
        return f"no table: {error}"


def _scores(graph: Graph, task: Task) -> str:
    headline = graph.status[task.key].headline
    return ", ".join(f"{name} {value:.3f}" for name, value in headline.items() if isinstance(value, float))


# Looking, and stopping -------------------------------------------------------------------------------


def show_status(runs_dir: Path, name: str | None, options: Options) -> int:
    """Print how far a sweep is."""
    record = find_record(runs_dir, name)
    place_of(record.on).refresh(record)
    options.out(json.dumps(status_dict(record), indent=2) if options.as_json else status_text(record))
    return 0


def status_text(record: Record) -> str:
    """A line for every task that is not waiting, and the number of tasks by state."""
    graph, lines = record.graph, []
    for task in graph.tasks.values():
        status = graph.status[task.key]
        if status.state == "waiting":
            continue
        took = "" if status.seconds is None else f"{status.seconds:8.0f} s"
        lines.append(f"{task.label:<28} {status.state:<8} {took:>10}  {status.run_id or ''}  {_scores(graph, task)}")
        if status.unknown:
            lines.append(f"{'':<28} Modal does not say how it stands ({status.unknown}): look again in a minute")
    counts = ", ".join(f"{count} {state}" for state, count in graph.counts().items())
    running = "running" if place_of(record.on).is_running(record) else "not running"
    lines.append(f"{record.name}: {running} on {record.on}; {counts}")
    return "\n".join([*(line.rstrip() for line in lines), *failures(graph)])


def status_dict(record: Record) -> dict[str, Any]:
    """How far a sweep is, in JSON's types."""
    tasks = []
    for task in record.graph.tasks.values():
        status = plain(record.graph.status[task.key])
        tasks.append({"name": task.label, "key": task.key, "is_pretraining": task.is_pretraining, **status})
    about = {"name": record.name, "on": record.on, "jobs": record.jobs, "record": str(record.path)}
    return {**about, "running": place_of(record.on).is_running(record), "counts": record.graph.counts(), "tasks": tasks}


def cancel(runs_dir: Path, name: str | None, options: Options) -> int:
    """Stop a sweep that runs elsewhere."""
    record = find_record(runs_dir, name)
    options.out(place_of(record.on).cancel(record))
    return 0


def failures(graph: Graph) -> list[str]:
    """Lines that tell what failed, with the end of its log; empty if nothing failed."""
    lines = []
    for task in graph.in_state("failed"):
        status = graph.status[task.key]
        lines.append(f"failed       {task.label}: {status.error}")
        lines += [f"             | {line}" for line in status.last_lines]
    for task in graph.in_state("blocked"):
        lines.append(f"not started  {task.label}: {graph.status[task.key].error}")
    return lines
