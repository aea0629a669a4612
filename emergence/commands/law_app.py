"""``emergence law``: the flags. The work is in :mod:`emergence.findings.laws` and :mod:`emergence.findings.scaling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from emergence.errors import DataError
from emergence.report.output_files import refuse_output_file
from emergence.wording import say

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Table = Annotated[Path, typer.Argument(metavar="TABLE|DIR", help="CSV or JSON, one row a run; or a folder of runs.")]
Unit = Annotated[
    Literal["nats", "bits_per_byte"], typer.Option(help="Of a folder's losses; bits where tokenizers differ.")
]
Series = Annotated[
    str | None, typer.Option(metavar="NAME", help="Pretraining data of a folder with several (the error lists them).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Seed = Annotated[int, typer.Option(help="Seed of the draws.")]


def refuse_if_no_table(path: Path) -> None:
    """Refuse before numpy is imported.

    Raises:
        DataError: There is nothing of that name.
    """
    if not path.exists():
        raise DataError("no such file or folder", path)


@app.command("fit")
def fit_command(
    table: Table,
    form: Annotated[
        Literal["log_power", "power", "nofewshot", "free"],
        typer.Option(help="Of the elbow's law; own elbows come first in any case, and alone with free."),
    ] = "log_power",
    link: Annotated[Literal["identity", "logit"], typer.Option(help="Of the score.")] = "identity",
    d0: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Predict where N questions are enough (default: shots of few-shot rows, or 10)."
        ),
    ] = None,
    level: Annotated[float, typer.Option(min=0.5, max=0.99, help="Confidence of the interval.")] = 0.90,
    draws: Annotated[int, typer.Option(min=19, max=9999, help="Draws that calibrate the interval.")] = 199,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also the paper's intervals (posterior: extra laws).")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also without parts of the runs: its whole table 2.")
    ] = False,
    cell: Annotated[
        Literal["full", "frozen"], typer.Option(help="Rows of a folder: models trained whole, or probes of snapshots.")
    ] = "full",
    score: Annotated[Literal["f1_tokens", "em", "expected_f1"], typer.Option(help="Of a folder's rows.")] = "f1_tokens",
    family: Annotated[str, typer.Option(help="Of the probe, with --cell frozen: linear, bilinear, mlp.")] = "linear",
    unit: Unit = "nats",
    series: Series = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also keep it there as JSON: figures and report of that folder tell it."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Where a task will emerge without finetuning, predicted from runs that were finetuned (Snell et al. 2024).

    \b
    loss, amount, score                pretraining loss, finetuning questions, score at most 1: needed
    fewshot, checkpoint, subset, size  used if there: 1 for few-shot rows, the model, the draw of questions
    se, tokenizer, unit                used if there: standard error, what losses are of (bits_per_byte)
    a folder of runs                   gives these columns itself: finetuned runs, or probed snapshots (--cell frozen)
    """
    if output is not None:
        refuse_output_file(output)
    refuse_if_no_table(table)
    from emergence.files import seal, to_json, write_json_atomic
    from emergence.findings.law_runs import RunRows
    from emergence.findings.laws import analyse_law

    rows = RunRows(cell, score, unit, series, family)
    analysis = analyse_law(
        table, rows=rows, form=form, link=link, target=d0, level=level, n_draws=draws, compare=compare, ablate=ablate,
        seed=seed,
    )  # fmt: skip
    if output is not None:
        write_json_atomic(output.resolve(), seal(analysis.to_dict()))
    say(to_json(analysis.to_dict(), indent=2) if as_json else analysis.text())


@app.command("scaling")
def scaling_command(
    table: Table,
    compute: Annotated[
        list[float] | None, typer.Option(metavar="C", min=1.0, help="FLOPs, 6*N*D, to spend best (may repeat).")
    ] = None,
    draws: Annotated[int, typer.Option(min=20, max=9999, help="Bootstraps of the runs.")] = 200,
    unit: Unit = "nats",
    series: Series = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Loss against parameters and tokens, L = E + A*N^-alpha + B*D^-beta, with the error of predictions held out.

    \b
    params, tokens, loss               non-embedding parameters, training tokens, held-out loss: needed
    params_total, unique_tokens, run   used if there: the other count; different tokens, if they repeat; a name
    tokenizer, unit                    used if there: what losses are of (bits_per_byte)
    a folder of runs                   gives these columns itself: one row a pretraining
    """
    refuse_if_no_table(table)
    from emergence.files import to_json
    from emergence.findings.scaling import analyse_scaling

    analysis = analyse_scaling(table, unit=unit, series=series, compute=tuple(compute or ()), n_draws=draws, seed=seed)
    say(to_json(analysis.to_dict(), indent=2) if as_json else analysis.text())
