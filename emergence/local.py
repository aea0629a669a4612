"""The local twin of ``remote.py``: runs experiments on this machine and tells the user about it.

Ctrl-C becomes a request to stop (checkpoint, then exit 130), so that it costs nothing; a second one
stops at once, and costs what was done since the last checkpoint.
"""

from __future__ import annotations

import logging
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emergence.analysis.comparable import group_results
from emergence.analysis.grid import Grid, RunScores, build_grid, format_grid
from emergence.analysis.results import Collection, Found
from emergence.analysis.verdict import Verdict, verdict_of
from emergence.errors import UsageError
from emergence.experiment.facts import HEADLINE, WORDS, WORDS_BOTH, Scores, Validity
from emergence.experiment.result import RunResult
from emergence.experiment.run import run_experiment
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import RunDirectory, RunStore
from emergence.measures.bootstrap import Estimate
from emergence.measures.measured_coverage import interval_notes, units_of
from emergence.spec import ExperimentSpec
from emergence.training.live_sinks import open_sink
from emergence.training.recording import TerminalProgress
from emergence.wording import shown

#: Derived data (tokenizers, packed streams, downloads), beside the runs that use it.
CACHE_FOLDER = ".cache"

#: What read-outs are called on a terminal where their name does not say it.
READOUT_WORDS = {
    HEADLINE: "this run, as above",
    WORDS: "words and positions",
    WORDS_BOTH: "words and positions",
}

#: The four cells of ``emergence demo``; the second uses the first one's pretrained trunk.
DEMO_CELLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pretrain, then train all weights", {}),
    ("linear probe on the frozen pretrained trunk", {"freeze_llm": True}),
    ("train all weights of a random trunk", {"random_baseline": True}),
    ("linear probe on a frozen random trunk", {"random_baseline": True, "freeze_llm": True}),
)


def run_locally(
    spec: ExperimentSpec | None, runs_dir: Path, *, resume: str | None, fresh: bool, sink: str | None
) -> RunResult | None:
    """``emergence run``: run one experiment and print what it found.

    Args:
        spec: What to run; None to take the spec of ``resume``.
        runs_dir: Folder of run directories; made when the first run is.
        resume: Run id to go on with.
        fresh: Start anew even where an unfinished or finished twin exists.
        sink: ``tensorboard``, ``wandb`` or ``trackio``, or None.
    """
    store = RunStore(runs_dir)
    if resume is not None:
        if fresh:
            raise UsageError("--resume goes on with a run and --fresh starts a new one: drop one of the two")
        spec = store.open(resume).spec
    if spec is None:
        raise ValueError("neither a spec nor a run to resume")
    with plain_messages(), StopSwitch() as should_stop, open_sink(sink) as wrap_recorder:
        result = run_experiment(
            spec,
            store,
            cache_dir=runs_dir / CACHE_FOLDER,
            run_id=resume,
            fresh=fresh,
            should_stop=should_stop,
            on_open=_announce,
            progress=TerminalProgress(),
            wrap_recorder=wrap_recorder,
        )
    if result is not None:
        print(describe_result(result, runs_dir))
    return result


def run_demo(runs_dir: Path, *, seed: int, fresh: bool) -> Grid:
    """``emergence demo``: all four cells on the micro-world, then the 2x2.

    Args:
        runs_dir: Folder of run directories; finished cells found there are used as they are.
        seed: Of all four runs.
        fresh: Run all cells anew.
    """
    store, started = RunStore(runs_dir), time.monotonic()
    flags: dict[str, Any] = {"config_name": "debug", "data": "microworld", "seed": seed}
    trunk: str | None = None
    runs = []
    with plain_messages(), StopSwitch() as should_stop:
        for number, (title, extra) in enumerate(DEMO_CELLS, start=1):
            if trunk and not extra.get("random_baseline"):
                extra = {**extra, "skip_pretrain": True, "pretrained_model_path": trunk}
            spec = ExperimentSpec.from_flags(**flags, **extra)
            print(f"\n[{number}/{len(DEMO_CELLS)}] {title}", file=sys.stderr)
            result = run_experiment(
                spec,
                store,
                cache_dir=runs_dir / CACHE_FOLDER,
                fresh=fresh,
                should_stop=should_stop,
                on_open=_announce,
                progress=TerminalProgress(),
            )
            if result is None or result.run_id is None:
                raise UsageError("the demo runs in one process: start it without torchrun")
            run = store.open(result.run_id)
            trunk = trunk or f"{run.run_id}/{run.trunk_path.name}"
            runs.append(RunScores.load(run))
    grid = build_grid(runs)
    print("\n" + format_grid(grid))
    print("\n" + describe_verdict(verdict_of_runs(runs, runs_dir)))
    print("\nrun directories")
    for run_scores in runs:
        print(f"  {run_scores.run.path}")
    print(f"\n{_report_line(runs_dir)}\n{time.monotonic() - started:.0f} s in all")
    return grid


def _report_line(runs_dir: Path) -> str:
    """Write the report and name it; without the packages it takes, say which."""
    from emergence.analysis.report import write_report

    try:
        return f"report           {write_report(runs_dir).html}"
    except UsageError as error:
        return f"no report        {error}"


def verdict_of_runs(runs: Sequence[RunScores], root: Path) -> Verdict:
    """The verdict of finished runs that differ in nothing but cell and seed."""
    found = tuple(Found(run.run.run_id, run.result, run.run.spec, run) for run in runs)
    return verdict_of(group_results(Collection(root, found, ())).sets[0])


def describe_verdict(verdict: Verdict) -> str:
    """The outcome and where, then the sentences it rests on, each on lines of its own."""
    sentences = (textwrap.fill(s, 110, initial_indent="  ", subsequent_indent="    ") for s in verdict.sentences)
    return "\n".join([f"verdict             {verdict.short}", *sentences])


def describe_result(result: RunResult, runs_dir: Path) -> str:
    """The few lines that end a run: held-out loss, test scores with intervals, where everything is."""
    lines = []
    if loss := result.held_out_loss:
        lines.append(
            f"held-out text    {loss.nats_per_token:.3f} nats/token, {loss.bits_per_byte:.3f} bits/byte, "
            f"perplexity {loss.perplexity:.1f}"
        )
    if result.test_scores:
        test = result.scores("test")
        lines.append(f"token F1         {shown(test.estimate('f1_tokens'))}  ({counts_of(test)})")
        lines.append(f"exact match      {shown(test.estimate('em'))}")
        lines += _other_readouts(result)
        lines += _minimal_pairs(result.minimal_pairs or {})
        lines += _no_model(result)
        lines += [f"note             {note}" for note in evaluation_notes(test)]
    lines.append(f"run directory    {runs_dir / (result.run_id or '')}")
    return "\n".join(lines)


def counts_of(scores: Scores) -> str:
    """``1,043 test questions, 184 sentences, 16 documents``."""
    return f"{scores.n:,} test questions, {units_of(scores.n_clusters or 0, scores.n_documents)}"


def evaluation_notes(scores: Scores) -> list[str]:
    """How far the intervals of one run can be trusted."""
    return list(
        interval_notes(
            {"this run": 1},
            n_sentences=scores.n_clusters or 0,
            n_documents=scores.n_documents,
            cluster=scores.cluster,
            widening=scores.widening,
        )
    )


def _other_readouts(result: RunResult) -> list[str]:
    if not result.probes:
        return []
    layer = result.chosen_layers["linear"]
    lines = [f"                 by the linear probe at layer {layer}, chosen on validation"]
    for name, readout in result.readouts.items():
        if name != HEADLINE:
            f1 = shown(readout.estimate("test", "f1_tokens"))
            lines.append(f"  {name.replace('_', ', '):<14} {f1}  (F1, layer {readout.layer})")
    return lines + _validity(result.validities)


def _minimal_pairs(found: Mapping[str, Any]) -> list[str]:
    """Role-crossed pairs, both members right; what ignores word order gets none."""
    scored = {name: scores for name, scores in found.items() if scores["scores"]}
    if not scored:
        return []
    first = next(iter(scored.values()))
    lines = [f"minimal pairs    both right of {first['n_pairs']:,} role-crossed pairs (guessing {first['chance']:.2f})"]
    for name, scores in scored.items():
        both = Estimate.from_dict(scores["scores"]["both_right"])
        lines.append(f"  {READOUT_WORDS.get(name, name):<22} {shown(both)}")
    return lines


def _validity(families: Mapping[str, Validity]) -> list[str]:
    """One line for each family: F1 beyond rote, and how much shorter the states make the answers' code."""
    lines = []
    for family, found in families.items():
        contrast = f"selectivity {shown(found.selectivity)}, " if found.selectivity else ""
        compression = "" if found.compression is None else f"compression {found.compression:.2f}"
        lines.append(f"  {family:<14} {contrast}{compression}")
    return lines


def _no_model(result: RunResult) -> list[str]:
    """What needs no language model: the best rule, and words and positions as a state of this layout knows them."""
    if not result.no_model_floor:
        return []
    name, floor = result.no_model_floor
    lines = [f"no-model floor   {shown(floor)}  (F1, {name.replace('_', ' ')})"]
    if words := result.words_alone:
        lines.append(f"words, positions {shown(words)}  (F1, no language model)")
    return lines


def _announce(run: RunDirectory, what: str) -> None:
    doing = {
        "new": "new run",
        "resumed": "going on with",
        "finished": "finished already (start anew with --fresh):",
    }
    print(f"{doing[what]} {run.run_id}", file=sys.stderr)


@contextmanager
def plain_messages() -> Iterator[None]:
    """Log messages of the package as plain lines on standard error; warnings too."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("emergence")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings_logger = logging.getLogger("py.warnings")
    warnings_logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logger.removeHandler(handler)
        warnings_logger.removeHandler(handler)
        logging.captureWarnings(False)
        logger.setLevel(level)
