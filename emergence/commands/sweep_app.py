"""``emergence sweep``: the flags. The work is in :mod:`emergence.commands.sweep`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from emergence.commands import sweep as command
from emergence.commands.before import named
from emergence.remote.launch import Request
from emergence.spec.experiment import SET, ExperimentSpec
from emergence.spec.flags import flags_of, takes
from emergence.spec.matrix import DATA_KEYS
from emergence.wording import say


class _StartByDefault(TyperGroup):
    """``emergence sweep MATRIX ...`` is ``emergence sweep start MATRIX ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else ["start", *args])


app = typer.Typer(cls=_StartByDefault, add_completion=False, rich_markup_mode=None)


RunsDir = Annotated[
    Path,
    typer.Option(help="Folder that holds the run directories.", parser=named("--runs-dir"), metavar="<path>"),
]
RecordName = Annotated[str | None, typer.Argument(metavar="[RECORD]", help="Name or file; the last sweep's if none.")]
Jobs = Annotated[int | None, typer.Option(help="Runs at a time (1 on this machine, 10 on Modal).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RUNS = Path("runs")
#: Flags that say where the data of every cell comes from. Without them the matrix file says it.
DATA = tuple(
    replace(each, kind=each.kind | None, default=None, help=f"{each.help} Default: as in the file.")
    for each in flags_of(ExperimentSpec, *DATA_KEYS)
)
GPU = replace(*flags_of(Request, "gpu"), help="On Modal: instead of the configurations' GPUs.")
LAUNCH = (GPU, *flags_of(Request, "dry_run", "max_cost", "yes"))


@app.command("start")
@takes(*DATA, replace(SET, help="Override a config field in every cell."), *LAUNCH)
def start_command(
    matrix: Annotated[str, typer.Argument(help="A matrix file, or its name in configs/.")] = "matrix",
    only: Annotated[str | None, typer.Option(metavar="PATTERNS", help="Cells by name, e.g. 'T-*,S-W-*'.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0 to N-1 instead of the file's.")] = None,
    on: Annotated[Literal["local", "modal"], typer.Option(help="Where to run.")] = "local",
    runs_dir: RunsDir = RUNS,
    jobs: Jobs = None,
    *,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Run a matrix of experiments, or what is left of it: one pretraining serves all its finetunings.

    \b
      emergence sweep --only 'T-*' --seeds 3            the tiny cells of configs/matrix.toml
      emergence sweep matrix-debug --jobs 2             a small matrix on the micro-world, some minutes
      emergence sweep matrix-law-debug --jobs 2         data for an emergence law (docs/laws.md), under half an hour
      emergence sweep --on modal --max-cost 200         everything on Modal; the laptop may close
      emergence sweep status | resume | cancel          of the last sweep, or of a named RECORD

    What is done is found by content and skipped, so the same command goes on after any interruption.
    """
    data = {key: flags.pop(key) for key in DATA_KEYS}
    patterns = [pattern.strip() for pattern in (only or "").split(",") if pattern.strip()]
    overrides = tuple(flags.pop("set") or ())
    options = _options(jobs=jobs, as_json=as_json, **flags)
    code = command.start(matrix, on, runs_dir, options, only=patterns, seeds=seeds, data=data, set_values=overrides)
    raise typer.Exit(code)


@app.command("status")
def status_command(record: RecordName = None, runs_dir: RunsDir = RUNS, as_json: AsJson = False) -> None:
    """How far a sweep is."""
    raise typer.Exit(command.show_status(runs_dir, record, _options(as_json=as_json)))


@app.command("resume")
@takes(*LAUNCH)
def resume_command(
    record: RecordName = None, runs_dir: RunsDir = RUNS, jobs: Jobs = None, *, as_json: AsJson = False, **flags: Any
) -> None:
    """Go on with a sweep: what was stopped or failed is tried again."""
    raise typer.Exit(command.resume(runs_dir, record, _options(jobs=jobs, as_json=as_json, **flags)))


@app.command("cancel")
def cancel_command(record: RecordName = None, runs_dir: RunsDir = RUNS) -> None:
    """Stop a sweep that runs elsewhere: on this machine (its runs save first) or on Modal."""
    raise typer.Exit(command.cancel(runs_dir, record, _options()))


def _options(**options: Any) -> command.Options:
    return command.Options(out=say, say=lambda text: say(text, err=True), **options)
