"""``emergence law``: the flags. The work is in :mod:`emergence.findings.laws` and :mod:`emergence.findings.scaling`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import typer

from emergence.commands.before import named
from emergence.errors import DataError, UsageError
from emergence.experiment.store import refuse_if_no_results
from emergence.report.output_files import LAW_COMPARISONS, LAWS, SCALING_LAWS, refuse_output_file, write_output
from emergence.wording import parsed_number, say

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Table = Annotated[Path, typer.Argument(metavar="TABLE|DIR", help="CSV or JSON, one row a run; or a folder of runs.")]
Unit = Annotated[
    Literal["nats", "bits_per_byte"], typer.Option(help="Of a folder's losses; bits where tokenizers differ.")
]
Series = Annotated[
    str | None, typer.Option(metavar="NAME", help="Pretraining data of a folder with several (the error lists them).")
]
Cell = Annotated[
    Literal["full", "frozen"], typer.Option(help="Rows of a folder: models trained whole, or probes of snapshots.")
]
Score = Annotated[Literal["f1_tokens", "em", "expected_f1"], typer.Option(help="Of a folder's rows.")]
Shots = Annotated[
    int | None, typer.Option(min=0, help="Of a folder's few-shot rows (default: the most that were asked; 0: none).")
]
Family = Annotated[str, typer.Option(help="Of the probe, with --cell frozen: linear, bilinear, mlp.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=named("--output"),
        help="Also keep it there as JSON: figures and report of that folder tell it.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]


def refuse_if_no_table(path: Path) -> None:
    """Refuse before numpy is imported.

    Raises:
        DataError: There is nothing of that name.
    """
    if not path.exists():
        raise DataError("no such file or folder", path)


class Told(Protocol):
    """What a command found."""

    def to_dict(self) -> dict[str, Any]: ...
    def text(self) -> str: ...


def tell(found: Told, output: Path | None, *, as_json: bool) -> None:
    """Keep what a command found, if somebody wants that, and print it."""
    from emergence.files import seal, to_json

    content = found.to_dict()
    if output is not None:
        write_output(output, to_json(seal(content), indent=2) + "\n")
    say(to_json(content, indent=2) if as_json else found.text())
    if output is not None and output.is_file():
        say(f"kept in {output}", err=True)


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
    cell: Cell = "full",
    score: Score = "f1_tokens",
    family: Family = "linear",
    shots: Shots = None,
    unit: Unit = "nats",
    series: Series = None,
    output: Output = None,
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
        refuse_output_file(output, LAWS)
    refuse_if_no_table(table)
    from emergence.findings.law_runs import RunRows
    from emergence.findings.laws import analyse_law

    rows = RunRows(cell, score, unit, series, family, shots)
    analysis = analyse_law(
        table, rows=rows, form=form, link=link, target=d0, level=level, n_draws=draws, compare=compare, ablate=ablate,
        seed=seed,
    )  # fmt: skip
    tell(analysis, output, as_json=as_json)


@app.command("scaling")
def scaling_command(
    table: Table,
    compute: Annotated[
        list[float] | None, typer.Option(metavar="C", min=1.0, help="FLOPs, 6*N*D, to spend best (may repeat).")
    ] = None,
    draws: Annotated[int, typer.Option(min=20, max=9999, help="Bootstraps of the runs.")] = 200,
    unit: Unit = "nats",
    series: Series = None,
    output: Output = None,
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
    if output is not None:
        refuse_output_file(output, SCALING_LAWS)
    refuse_if_no_table(table)
    from emergence.findings.scaling import analyse_scaling

    analysis = analyse_scaling(table, unit=unit, series=series, compute=tuple(compute or ()), n_draws=draws, seed=seed)
    tell(analysis, output, as_json=as_json)


def refuse_if_no_noise(noise: str) -> None:
    """Refuse a file that is none before numpy is imported.

    Raises:
        UsageError: It is neither a file nor begins like numbers.
    """
    if noise[:1] not in "0123456789.+-" and not Path(noise).is_file():
        raise UsageError(f"--noise {noise}: no such file, and no numbers RUN[,CHECKPOINT[,DRAW]]")


def numbers_of(text: str, flag: str) -> list[float]:
    """Comma-separated numbers.

    Raises:
        UsageError: One of them is none.
    """
    try:
        values = [parsed_number(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text[:80]}: numbers with commas between them") from None
    if not all(math.isfinite(value) for value in values):
        raise UsageError(f"{flag} {text[:80]}: not a finite number")
    return values


@app.command("plan")
def plan_command(
    losses: Annotated[str, typer.Option(metavar="X,X,...", help="Pretraining losses of the checkpoints.")],
    amounts: Annotated[str, typer.Option(metavar="N,N,...", help="Finetuning questions.")],
    noise: Annotated[
        str,
        typer.Option(metavar="FILE|X,X,X", help="A law kept by law fit; or SDs of a run, a checkpoint, a draw."),
    ],
    draws: Annotated[int, typer.Option(min=1, max=99, help="Draws of questions at each amount.")] = 1,
    law: Annotated[
        str | None,
        typer.Option(metavar="E0,EMAX,SLOPE[,ALPHA]", help="The law believed: elbow at --d0, at the most questions."),
    ] = None,
    d0: Annotated[
        float | None, typer.Option(metavar="N", help="Predict where N questions are enough (default: as kept, or 10).")
    ] = None,
    fewshot: Annotated[
        bool | None, typer.Option("--fewshot/--no-fewshot", help="Few-shot rows, too (default: as the kept law).")
    ] = None,
    hours: Annotated[
        str | None,
        typer.Option(metavar="C[,R[,Q]]", help="CPU hours of a checkpoint, a run, a thousand questions of a run."),
    ] = None,
    level: Annotated[float, typer.Option(min=0.5, max=0.99, help="Confidence of the interval.")] = 0.90,
    intervals: Annotated[int, typer.Option(min=5, max=999, help="Simulated sweeps with an interval.")] = 60,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """What a sweep would predict, and how surely, before it is paid for; and which one more row of it helps most.

    \b
    emergence law plan --losses 2.5,2.2,2.0,1.9,1.8 --amounts 50,200,1000,6000 --draws 2 --noise law.json
    emergence law plan ... --noise 0.01,0.005 --law 1.69,2.27,0.9 --hours 0.5,0.02,0.01
    """
    planned = {"losses": numbers_of(losses, "--losses"), "amounts": numbers_of(amounts, "--amounts")}
    believed = None if law is None else numbers_of(law, "--law")
    costs = None if hours is None else numbers_of(hours, "--hours")
    refuse_if_no_noise(noise)
    from emergence.files import to_json
    from emergence.findings.law_plan import analyse_plan
    from emergence.training.recording import TerminalProgress, tracked

    progress = TerminalProgress()
    analysis = analyse_plan(
        **planned, draws=draws, noise=noise, law=believed, target=d0, fewshot=fewshot, hours=costs, level=level,
        n_intervals=intervals, seed=seed,
        one_by_one=lambda numbers: tracked(progress, numbers, "intervals", "simulated sweeps"),
    )  # fmt: skip
    say(to_json(analysis.to_dict(), indent=2) if as_json else analysis.text())


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="Table or folder of runs, as of law fit.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The one it is compared with.")],
    form: Annotated[Literal["log_power", "power", "nofewshot"], typer.Option(help="Of the elbow's law.")] = "log_power",
    link: Annotated[Literal["identity", "logit"], typer.Option(help="Of the score.")] = "identity",
    d0: Annotated[
        float | None, typer.Option(metavar="N", help="Where N questions are enough, of both (default: as of law fit).")
    ] = None,
    level: Annotated[float, typer.Option(min=0.5, max=0.99, help="Confidence of the intervals.")] = 0.90,
    draws: Annotated[int, typer.Option(min=19, max=9999, help="Draws that calibrate the intervals.")] = 199,
    cell: Cell = "full",
    score: Score = "f1_tokens",
    family: Family = "linear",
    shots: Shots = None,
    unit: Unit = "bits_per_byte",
    series_a: Annotated[str | None, typer.Option(metavar="NAME", help="Pretraining data, of A's folder.")] = None,
    series_b: Annotated[str | None, typer.Option(metavar="NAME", help="Pretraining data, of B's folder.")] = None,
    output: Output = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """In which of two corpora a task emerges earlier: A earlier, B earlier, or undetermined.

    Losses have to share an axis: bits per byte of one text, best one outside both corpora (column text names it).
    """
    if output is not None:
        refuse_output_file(output, LAW_COMPARISONS)
    for path in (a, b):
        refuse_if_no_table(path)
    from emergence.findings.law_comparison import compare_laws
    from emergence.findings.law_runs import RunRows
    from emergence.findings.laws import analyse_law

    first, second = (
        analyse_law(
            path, rows=RunRows(cell, score, unit, series, family, shots), form=form, link=link, target=d0, level=level,
            n_draws=draws, seed=seed + i,
        )
        for i, (path, series) in enumerate(((a, series_a), (b, series_b)))
    )  # fmt: skip
    tell(compare_laws(first, second, n_draws=draws, seed=seed), output, as_json=as_json)


@app.command("skills")
def skills_command(
    results_dir: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run directory, or a folder of them.")],
    readout: Annotated[str, typer.Option(help="Of frozen runs: headline (linear), bilinear, mlp.")] = "headline",
    score: Annotated[
        Literal["f1_tokens", "em"], typer.Option(help="An answer is right from a score of 0.5 on.")
    ] = "f1_tokens",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Whether the questions of a predicate are answered together: tuples of roles against independent answers.

    Beside each role's share of wrong answers stands the curve of Arora and Goyal (2023).
    """
    refuse_if_no_results(results_dir)
    from emergence.files import to_json
    from emergence.findings.skills import analyse_skills

    found = analyse_skills(results_dir, readout=readout, score=score, seed=seed)
    say(to_json(found.to_dict(), indent=2) if as_json else found.text())
