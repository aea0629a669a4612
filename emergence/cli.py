"""The ``emergence`` command: the local twin of the Modal entry points.

Every command imports what it needs when it runs, so that ``--help`` answers at once and works
without torch. User errors end in one line on standard error and the error's own exit code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from emergence import cli_modal
from emergence.config import ConfigName
from emergence.errors import EmergenceError
from emergence.spec import DataRoute, FinetuneData, Layout, PretrainData

app = typer.Typer(
    name="emergence",
    help="Does semantic-role understanding emerge from next-token prediction? Pretrain, probe, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunsDir = Annotated[Path, typer.Option(help="Folder that holds the run directories.")]
DEFAULT_RUNS = Path("runs")


def run() -> None:
    """Console entry point: turns :class:`EmergenceError` into one line and an exit code."""
    try:
        app()
    except EmergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


@app.command("run")
def run_command(
    config_name: Annotated[ConfigName, typer.Option(help="Model size.")] = "tiny",
    pretrain_data: Annotated[
        PretrainData, typer.Option(help="Pretraining data; both see the same number of tokens.")
    ] = "wiki",
    freeze_llm: Annotated[bool, typer.Option("--freeze-llm", help="Freeze the trunk, train only probes.")] = False,
    random_baseline: Annotated[bool, typer.Option("--random-baseline", help="Random trunk, never pretrained.")] = False,
    finetune_samples: Annotated[int | None, typer.Option(help="Few-shot: use this many training questions.")] = None,
    skip_pretrain: Annotated[bool, typer.Option("--skip-pretrain", help="Use existing pretrained weights.")] = False,
    pretrained_model_path: Annotated[
        str | None, typer.Option(help="Weights to start from, e.g. RUN/toy_llm_unified_pretrained.pth.")
    ] = None,
    skip_finetune: Annotated[bool, typer.Option("--skip-finetune", help="Pretrain only.")] = False,
    list_saved: Annotated[bool, typer.Option("--list-saved", help="List the runs and stop.")] = False,
    seed: Annotated[int, typer.Option(help="Seeds initialisation, data order and few-shot subsets.")] = 0,
    layout: Annotated[
        Layout, typer.Option(help="question-first: question, sentence. echo: sentence, question, sentence.")
    ] = "question-first",
    finetune_data: Annotated[FinetuneData, typer.Option(help="Questions the hub route loads.")] = "qasrl",
    data: Annotated[DataRoute, typer.Option(help="hub (Hugging Face) or microworld (built in, offline).")] = "hub",
    pretrain_text: Annotated[
        str | None, typer.Option(help="Local text (file or folder) instead of the route's.")
    ] = None,
    nq_data: Annotated[
        str | None, typer.Option(help="Local NQ-open (jsonl or parquet) for --pretrain-data wiki+nq.")
    ] = None,
    qa_data: Annotated[
        str | None, typer.Option(help="Local question data (file or folder) instead of the route's.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a config field, e.g. pretrain.epochs=2."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run (any command resumes its own run by itself).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew: no resuming, no reuse of a matching pretraining.")
    ] = False,
    log: Annotated[
        str | None, typer.Option(metavar="SINK", help="Also log live to tensorboard, wandb or trackio.")
    ] = None,
) -> None:
    """Pretrain, finetune or probe, evaluate; resumes by itself after any interruption.

    \b
    The four cells of the 2x2:
      emergence run --config-name tiny                                   pretrained, all weights trained
      emergence run --config-name tiny --freeze-llm --skip-pretrain \\
          --pretrained-model-path RUN/toy_llm_unified_pretrained.pth     pretrained, frozen
      emergence run --config-name tiny --random-baseline                 random, all weights trained
      emergence run --config-name tiny --random-baseline --freeze-llm    random, frozen
    """
    if list_saved:
        _list_runs(runs_dir, as_json=False)
        return
    from emergence.spec import ExperimentSpec

    if resume is not None:
        spec = None
    else:
        spec = ExperimentSpec.from_flags(
            config_name=config_name,
            set_values=tuple(set_values or ()),
            pretrain_data=pretrain_data,
            freeze_llm=freeze_llm,
            random_baseline=random_baseline,
            finetune_samples=finetune_samples,
            skip_pretrain=skip_pretrain,
            pretrained_model_path=pretrained_model_path,
            skip_finetune=skip_finetune,
            seed=seed,
            layout=layout,
            finetune_data=finetune_data,
            data=data,
            pretrain_text=pretrain_text,
            nq_data=nq_data,
            qa_data=qa_data,
        )
    from emergence.local import run_locally

    run_locally(spec, runs_dir, resume=resume, fresh=fresh, sink=log)


@app.command("list")
def list_command(
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List runs: size, condition, stage, progress, F1, age and bytes."""
    _list_runs(runs_dir, as_json)


@app.command("config")
def config_command(
    name: Annotated[str, typer.Argument(help="debug, tiny, small, base or medium.")] = "tiny",
    set_values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config field.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show a configuration: resolved values, parameter counts, tokens, memory and time estimates."""
    from emergence.describe import describe_config

    print(describe_config(name, tuple(set_values or ()), as_json=as_json))


@app.command("demo")
def demo_command(
    runs_dir: RunsDir = DEFAULT_RUNS / "demo",
    seed: Annotated[int, typer.Option(help="Seed of the four runs.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run all four cells anew.")] = False,
) -> None:
    """The whole experiment on the built-in micro-world: the 2x2, score and gap, in a few minutes on a CPU."""
    from emergence.local import run_demo

    run_demo(runs_dir, seed=seed, fresh=fresh)


@app.command("doctor")
def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """What this machine can do, what is missing, and what to do about it."""
    from emergence.doctor import diagnose, format_checks

    checks = diagnose()
    print(format_checks(checks, as_json=as_json))
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)


def _list_runs(runs_dir: Path, as_json: bool) -> None:
    import json

    from emergence.experiment.listing import format_table, list_runs

    summaries = list_runs(runs_dir)
    if as_json:
        print(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    elif summaries:
        print(format_table(summaries))
    else:
        print(f"no runs in {runs_dir}: start one with `emergence run`")


cli_modal.register(app, run_command)


if __name__ == "__main__":
    run()
