"""``emergence sweep``: the flags. The work is in :mod:`emergence.sweep`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from emergence.spec import DataRoute, FinetuneData
from emergence.sweep import command


class _StartByDefault(TyperGroup):
    """``emergence sweep MATRIX ...`` is ``emergence sweep start MATRIX ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else ["start", *args])


app = typer.Typer(cls=_StartByDefault, add_completion=False, rich_markup_mode=None)

RunsDir = Annotated[Path, typer.Option(help="Folder that holds the run directories.")]
RecordName = Annotated[str | None, typer.Argument(metavar="[RECORD]", help="Name or file; the last sweep's if none.")]
Jobs = Annotated[int | None, typer.Option(help="Runs at a time (1 on this machine, 10 on Modal).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a costly launch.")]
Gpu = Annotated[str | None, typer.Option(help="On Modal: instead of the configurations' GPUs.")]
MaxCost = Annotated[float | None, typer.Option(metavar="DOLLARS", help="Exit 2 if the estimate is higher.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
RUNS = Path("runs")


@app.command("start")
def start_command(
    matrix: Annotated[str, typer.Argument(help="A matrix file, or its name in configs/.")] = "matrix",
    only: Annotated[str | None, typer.Option(metavar="PATTERNS", help="Cells by name, e.g. 'T-*,S-W-*'.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0 to N-1 instead of the file's.")] = None,
    on: Annotated[Literal["local", "modal"], typer.Option(help="Where to run.")] = "local",
    runs_dir: RunsDir = RUNS,
    jobs: Jobs = None,
    data: Annotated[DataRoute | None, typer.Option(help="hub or microworld, instead of the file's.")] = None,
    finetune_data: Annotated[FinetuneData | None, typer.Option(help="Questions the hub route loads.")] = None,
    pretrain_text: Annotated[str | None, typer.Option(help="Local text instead of the route's.")] = None,
    nq_data: Annotated[str | None, typer.Option(help="Local NQ-open for wiki+nq and wiki+control.")] = None,
    qa_data: Annotated[str | None, typer.Option(help="Local question data instead of the route's.")] = None,
    set_values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config field in every cell.")
    ] = None,
    gpu: Gpu = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Run a matrix of experiments, or what is left of it: one pretraining serves all its finetunings.

    \b
      emergence sweep --only 'T-*' --seeds 3            the tiny cells of configs/matrix.toml
      emergence sweep matrix-debug --jobs 2             a small matrix on the micro-world, some minutes
      emergence sweep --on modal --max-cost 200         everything on Modal; the laptop may close
      emergence sweep status | resume | cancel          of the last sweep, or of a named RECORD

    What is done is found by content and skipped, so the same command goes on after any interruption.
    """
    flags = {"data": data, "finetune_data": finetune_data, "pretrain_text": pretrain_text}
    options = _options(jobs=jobs, dry_run=dry_run, max_cost=max_cost, yes=yes, as_json=as_json, gpu=gpu)
    code = command.start(
        matrix,
        on,
        runs_dir,
        options,
        only=[pattern.strip() for pattern in (only or "").split(",") if pattern.strip()],
        seeds=seeds,
        data={**flags, "nq_data": nq_data, "qa_data": qa_data},
        set_values=tuple(set_values or ()),
    )
    raise typer.Exit(code)


@app.command("status")
def status_command(record: RecordName = None, runs_dir: RunsDir = RUNS, as_json: AsJson = False) -> None:
    """How far a sweep is."""
    raise typer.Exit(command.show_status(runs_dir, record, _options(as_json=as_json)))


@app.command("resume")
def resume_command(
    record: RecordName = None,
    runs_dir: RunsDir = RUNS,
    jobs: Jobs = None,
    gpu: Gpu = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a sweep: what was stopped or failed is tried again."""
    options = _options(jobs=jobs, dry_run=dry_run, max_cost=max_cost, yes=yes, as_json=as_json, gpu=gpu)
    raise typer.Exit(command.resume(runs_dir, record, options))


@app.command("cancel")
def cancel_command(record: RecordName = None, runs_dir: RunsDir = RUNS) -> None:
    """Stop a sweep that runs elsewhere: on this machine (its runs save first) or on Modal."""
    raise typer.Exit(command.cancel(runs_dir, record, _options()))


def _options(**given: Any) -> command.Options:
    return command.Options(
        out=lambda text: print(text, flush=True), say=lambda text: print(text, file=sys.stderr, flush=True), **given
    )
