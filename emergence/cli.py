"""The ``emergence`` command: the local twin of the Modal entry points.

Every command imports what it needs when it runs, so that ``--help`` answers at once and works
without torch. User errors end in one line on standard error and the error's own exit code.
"""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from emergence import __version__
from emergence.commands.before import named, refuse_bad_paths, refuse_missing_model
from emergence.commands.law_app import app as law_app
from emergence.commands.pull import ABOUT as ABOUT_PULL
from emergence.commands.pull import ONLY_HELP, RUN_HELP, TO_HELP, pull
from emergence.commands.subject import refuse_missing_subject
from emergence.commands.sweep_app import RunsDir
from emergence.commands.sweep_app import app as sweep_app
from emergence.commands.verify import verify_command
from emergence.errors import UsageError, one_line, require_packages
from emergence.experiment.run_directory import SPEC_FILE
from emergence.experiment.store import RunDirectory, find_run, refuse_if_no_folder, refuse_if_no_results
from emergence.export.asked import refuse_licence, refuse_repository
from emergence.remote.launch import Request
from emergence.remote.pull import Part
from emergence.remote.refusals import ending_in_one_line, interrupted
from emergence.report.fitted import fitted_table, fitted_text, is_terminal
from emergence.report.output_files import TABLES, refuse_output_file, refuse_output_folder, write_output
from emergence.spec.experiment import SET, DataRoute, ExperimentSpec, experiment_flags, refuse_with_resume
from emergence.spec.flags import flags_of, parse_layers, parse_list, takes
from emergence.studies.cka.analyse import AnalysisFlags, analyse_locally
from emergence.wording import in_line, say

#: Commands in the order in which a person comes to use them, as ``--help`` shows them.
ORDER = (
    *("doctor", "demo", "config", "plan", "run", "list", "ask", "compare", "table", "figures", "report"),
    *("sweep", "probe-snapshots", "cka", "curves", "law"),
    *("fewshot", "probe", "revisions", "minimal-pairs", "ie", "units", "export"),
    *("pull", "verify", "verify-run"),
)


class _Commands(TyperGroup):
    """The commands in the order of their use, in whole sentences; no prefix of pydantic's before Typer's messages."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(1_000)) for name, each in commands if each])

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)
        for param in params:  # README tells of shell completion
            param.hidden = param.hidden or param.name in ("install_completion", "show_completion")
        return params

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="emergence",
    cls=_Commands,
    help="Does semantic-role understanding emerge from next-token prediction? Pretrain, probe, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        say(f"emergence {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Does semantic-role understanding emerge from next-token prediction? Pretrain, probe, compare."""


app.add_typer(law_app, name="law", help="Laws of emergence, from runs or a table of them.")
app.add_typer(sweep_app, name="sweep", help="A matrix of experiments by one command; its status, resume and cancel.")

DEFAULT_RUNS = Path("runs")
#: Flags of an experiment that ``probe`` takes.
PROBE_FLAGS = ("model", "revision", "layout", "finetune_samples", "finetune_data", "data", "qa_data")

Cluster = Annotated[
    Literal["sentence", "document"], typer.Option(help="What intervals resample whole: documents are the coarser unit.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Revision = Annotated[str | None, typer.Option(help="Of a model: a subfolder, a branch, a tag.")]
StudyFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", parser=named("--out"), help="Where results go (default: in the run, or beside the runs)."
    ),
]
WeightsType = Annotated[Literal["fp32", "bf16"], typer.Option(help="Of a model's weights.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: the GPU, if any).")]
TableStyle = Annotated[
    Literal["markdown", "latex", "csv", "json"] | None,
    typer.Option(
        "--format", help="Default: by the name of --output; markdown; on a terminal, a table that fits its window."
    ),
]
#: Which style of table a file's name asks for.
TABLE_STYLES: dict[str, Literal["latex", "csv", "json"]] = {".tex": "latex", ".csv": "csv", ".json": "json"}
TableFile = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", parser=named("--output"), help="Write there instead of printing."),
]


#: Containers that Python's collector lets accumulate before it looks for cycles among them.
_CONTAINERS_BEFORE_A_LOOK = 50_000


def run(command: typer.Typer = app) -> None:
    """Console entry point. What a person, Modal or the system can cause ends as one line with an exit code."""
    # Rows of predictions are thousands of containers: to look through them every 700 takes a tenth of a table's time.
    gc.set_threshold(_CONTAINERS_BEFORE_A_LOOK)
    with ending_in_one_line():
        built = typer.main.get_command(with_the_named(command, sys.argv[1:]))
        invoke = built.invoke

        def invoke_or_say(ctx: Any) -> Any:
            try:
                return invoke(ctx)
            except KeyboardInterrupt:  # Typer would end without a word
                raise interrupted() from None

        built.invoke = invoke_or_say  # type: ignore[method-assign]
        try:
            code = built(standalone_mode=False)
        except Exception as error:
            _end_with_usage(error)
            raise
        if isinstance(code, int):
            sys.exit(code)


def with_the_named(command: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """``command`` with the one command that the line names, because to build all of them takes a quarter of the start.

    All of it where the first word is no command: help lists them, and an unknown one is told its neighbours.
    """
    alone = copy.copy(command)
    first = words[0] if words else None
    alone.registered_commands = [each for each in command.registered_commands if each.name == first]
    alone.registered_groups = [each for each in command.registered_groups if each.name == first]
    return alone if first and (alone.registered_commands or alone.registered_groups) else command


def _end_with_usage(error: Exception) -> None:
    """End with what Typer says of flags that it does not take, in one line; return for any other error."""
    name = type(error).__name__
    if name == "Abort":  # an answer that was not given
        raise interrupted() from None
    if name == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        sys.exit(0)
    if (message := getattr(error, "format_message", None)) is not None:
        context = getattr(error, "ctx", None)
        hint = f" ({context.command_path} --help)" if context else ""
        say(f"error: {one_line(message().removesuffix('.'))}{hint}", err=True)
        sys.exit(error.exit_code)  # type: ignore[attr-defined]


@app.command("run")
@takes(*experiment_flags(), replace(*flags_of(Request, "list_saved"), help="Do what `emergence list` does, and stop."))
def run_command(
    *,
    runs_dir: RunsDir = DEFAULT_RUNS,
    resume: Annotated[str | None, typer.Option(help="Go on with this run (its own command does, too).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew: no resuming, no trunk from another run.")] = False,
    log: Annotated[str | None, typer.Option(metavar="SINK", help="Also log to tensorboard, wandb or trackio.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a run of more than an hour.")] = False,
    **flags: Any,
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
    if flags.pop("list_saved"):
        _list_runs(runs_dir, as_json=False)
        return
    if resume is not None:
        refuse_with_resume(flags)
    spec = ExperimentSpec.from_flags(set_values=flags.pop("set"), **flags) if resume is None else None
    refuse_bad_paths(spec, runs_dir, resume=resume, fresh=fresh)
    from emergence.commands.run import run_locally

    run_locally(spec, runs_dir, resume=resume, fresh=fresh, sink=log, yes=yes)


@app.command("plan")
@takes(*experiment_flags(), *flags_of(Request, "gpu", "max_cost"))
def plan_command(*, as_json: AsJson = False, **flags: Any) -> None:
    """What a run would do, and cost on Modal: tokens, GPU, hours, dollars, and hours here. Launches nothing."""
    import json

    from emergence.spec.cost import plan_experiment, refuse_if_too_dear
    from emergence.spec.local_time import core_time, this_machine
    from emergence.spec.memory import refuse_if_too_large_for

    gpu, max_cost = flags.pop("gpu"), flags.pop("max_cost")
    spec = ExperimentSpec.from_flags(set_values=flags.pop("set"), **flags)
    plan, here, machine = plan_experiment(spec, gpu), core_time(spec), this_machine()
    if as_json:
        hours_here = None if plan.hours is None else [seconds / 3600 for seconds in here.on(machine)]
        say(json.dumps({**plan.to_dict(), "hours_here": hours_here}, indent=2))
    else:
        say(f"{plan.text()}\n{'here':<12} {'not known' if plan.hours is None else here.text(machine)}")
    refuse_if_too_large_for(plan)
    refuse_if_too_dear(plan, max_cost)


@app.command("pull", help=ABOUT_PULL)
def pull_command(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    to: Annotated[Path, typer.Option(help=TO_HELP, parser=named("--to"), metavar="<path>")] = DEFAULT_RUNS,
    only: Annotated[Part, typer.Option(help=ONLY_HELP)] = "all",
) -> None:
    pull(run_id, to, only)


@app.command("list")
def list_command(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder of runs (default: --runs-dir).")] = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """List runs: size, condition, stage, progress, F1, age and bytes."""
    if folder is not None and not folder.exists():
        raise UsageError(f"{folder}: no such folder: give the one that holds the runs")
    _list_runs(folder or runs_dir, as_json)


@app.command("verify-run")
def verify_run_command(
    name: Annotated[str, typer.Argument(metavar="RUN|DIR", help="A run, or a folder of runs.")] = str(DEFAULT_RUNS),
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Check every byte of finished runs and compute their scores again; exits 1 if anything is damaged.

    Computed again from predictions.jsonl: its exact match and F1, the counts and means of the result, over all, over
    predicates, by role and by voice. Intervals have to hold their means. What the spec decides is compared with it, and
    the history with the trunk and with what the result repeats of it. Not computed again is what takes the model or the
    draws: each question's probabilities and argument selection, widths of intervals, validation, fits, and steps in the
    history of finetuning (without torch or the trunk, of pretraining too).
    """
    import json

    from emergence.experiment.verification import summary_of, verify_folder

    runs = verify_folder(find_run(name, runs_dir, or_folder_of_runs=True))
    is_clean = not any(run.damaged for run in runs)
    if as_json:
        say(json.dumps({"is_clean": is_clean, "runs": [run.to_dict() for run in runs]}, indent=2))
    else:
        say("\n".join([*(line for run in runs for line in run.lines()), summary_of(runs)]))
    if not is_clean:
        raise typer.Exit(1)


@app.command("table")
def table_command(
    results_dir: Annotated[
        Path, typer.Argument(metavar="DIR", help="Run directories, downloaded copies, or renamed stats files.")
    ] = DEFAULT_RUNS,
    style: TableStyle = None,
    output: TableFile = None,
    cluster: Cluster = "sentence",
    as_json: AsJson = False,
) -> None:
    """The results table: F1, EM, emergence score with intervals, parameters, time; names what it left out."""
    if as_json and style not in (None, "json"):
        raise UsageError(f"--json is --format json, and --format {style} was given: drop one of the two")
    style = "json" if as_json else style
    if output is not None:
        refuse_output_file(output, TABLES)
        style = style or TABLE_STYLES.get(output.suffix.lower())
    refuse_if_no_results(results_dir)
    from emergence.findings.table import build_table
    from emergence.report.table_formats import format_table, to_terminal

    table = build_table(results_dir, cluster=cluster)
    fits_window = style is None and output is None and is_terminal()
    text = to_terminal(table) if fits_window else format_table(table, style or "markdown")
    if output is None:
        say(text, end="")
    else:
        write_output(output, text)
    if style == "csv" or output is not None:
        for note in table.notes():
            say(in_line(note), err=True)


@app.command("config")
def config_command(
    name: Annotated[str, typer.Argument(help="debug, tiny, small, base or medium.")] = "tiny",
    set_values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config field.")
    ] = None,
    as_json: AsJson = False,
    config_name: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Show a configuration: resolved values, parameter counts, tokens, memory and time estimates."""
    from emergence.commands.config import describe_config

    say(describe_config(config_name or name, tuple(set_values or ()), as_json=as_json))


@app.command("figures")
def figures_command(
    results_dir: Annotated[
        Path, typer.Argument(metavar="DIR", help="Run directories and results files; or one run, with --out.")
    ] = DEFAULT_RUNS,
    out: Annotated[
        Path | None,
        typer.Option(help="Where figures go (default: figures in DIR).", parser=named("--out"), metavar="<path>"),
    ] = None,
) -> None:
    """Draw every figure that DIR allows, as PNG, PDF and SVG with the data behind it."""
    _refuse_before_writing(results_dir, out, "figures")
    from emergence.report.figures import make_figures
    from emergence.training.recording import TerminalProgress

    say(make_figures(results_dir, out, progress=TerminalProgress()).text())


@app.command("report")
def report_command(
    results_dir: Annotated[
        Path, typer.Argument(metavar="DIR", help="Run directories and results files; or one run, with --out.")
    ] = DEFAULT_RUNS,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the report goes (default: report in DIR).", parser=named("--out"), metavar="<path>"),
    ] = None,
    cluster: Cluster = "sentence",
) -> None:
    """One HTML file that opens anywhere, and its Markdown twin: verdict, 2x2, figures, examples, cost, provenance."""
    _refuse_before_writing(results_dir, out, "report")
    from emergence.report.write import write_report

    say(write_report(results_dir, out, cluster=cluster).text())


@app.command("compare")
def compare_command(
    run_a: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name in --runs-dir.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN", help="The run it is compared with.")],
    readout: Annotated[
        str | None,
        typer.Option(
            help="For both runs, or one for each in their order: bilinear,finetuned (default: what both have)."
        ),
    ] = None,
    cluster: Cluster = "sentence",
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Two runs on the same test questions: the paired difference of F1, argument selection and EM, with intervals."""
    runs = [RunDirectory.open(find_run(name, runs_dir)) for name in (run_a, run_b)]
    from emergence.files import to_json
    from emergence.findings.paired_runs import compare_runs
    from emergence.findings.two_by_two import RunScores

    a, b = (RunScores.checked(run) for run in runs)
    names = [name.strip() for name in readout.split(",")] if readout else []
    comparison = compare_runs(a, b, names, cluster=cluster)
    say(to_json(comparison.to_dict(), indent=2) if as_json else comparison.text())


@app.command("ask")
def ask_command(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name in --runs-dir.")],
    sentence: Annotated[str, typer.Argument(help="A sentence, in quotation marks.")],
    question: Annotated[str, typer.Argument(help="What is asked about it, in quotation marks.")],
    predicate: Annotated[
        str | None, typer.Option(metavar="WORD", help="The verb asked about, or its number (default: sought).")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Spans shown for each read-out.")] = 3,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """A question of your own to a finished run: likely answers with probabilities, every probe side by side.

    \b
    emergence ask runs/demo/RUN "The baker cut the rope with a knife ." "Who cut something?"
    """
    run = RunDirectory.open(find_run(run_id, runs_dir))
    from emergence.experiment.asking import ask
    from emergence.files import to_json

    answered = ask(run, sentence, question, predicate=predicate, top=top)
    say(to_json(answered.to_dict(), indent=2) if as_json else answered.text())


@app.command("export")
def export_command(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name in --runs-dir.")],
    to: Annotated[
        Path, typer.Option(metavar="DIR", parser=named("--to"), help="The new folder; nothing is overwritten.")
    ],
    which: Annotated[
        Literal["pretrained", "finetuned"], typer.Option(help="The trunk before finetuning, or after it.")
    ] = "pretrained",
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="Also every snapshot of pretraining, in subfolders step0, step2...")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also to the Hugging Face hub: snapshots as branches.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="Of the weights, for the model card.")] = "apache-2.0",
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """A run's trunk as a directory that stock transformers loads: Qwen3, Llama or GPT-2 without custom code.

    \b
    emergence export runs/demo/RUN --to my-model
    AutoModelForCausalLM.from_pretrained("my-model")
    """
    if push is not None:
        refuse_repository(push)
    refuse_licence(licence)
    run = RunDirectory.open(find_run(run_id, runs_dir))
    require_packages("export", "safetensors", "torch", *(["huggingface_hub"] if push is not None else []))
    from emergence.export.folder import write_export

    kept = push is not None
    export = write_export(run, to, which=which, snapshots=snapshots, licence=licence, take_existing=kept)
    for line in export.lines():
        say(in_line(line))
    if push is not None:
        from emergence.export.push import push_export

        say(in_line(push_export(export, push, report=lambda line: say(in_line(line)))))


@app.command("probe")
@takes(
    *flags_of(ExperimentSpec, *PROBE_FLAGS),
    replace(SET, help="Override a config field (repeatable), e.g. probe.features=fp32."),
)
def probe_command(
    *,
    revisions: Annotated[
        str | None, typer.Option(metavar="A,B,...|all|log12", help="Several: named, all, or spaced in log steps.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Levels to probe, e.g. 0,10,20 (0 is the embeddings).")] = "all",
    seeds: Annotated[int, typer.Option(help="Seeds of probes and few-shot subset.")] = 1,
    twins: Annotated[int, typer.Option(help="Random twins as the floor: the architecture with fresh weights.")] = 2,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the weights in memory.")] = "fp32",
    runs_dir: RunsDir = DEFAULT_RUNS,
    **flags: Any,
) -> None:
    """A published model, its revisions and its random twins through the same probes; needs the hf extra.

    \b
    emergence probe --model EleutherAI/pythia-70m --revisions log12 --finetune-samples 3000
    emergence probe --model exports/tiny --layers 0,2,4
    """
    set_values = [f'probe.layers="{layers}"', f'probe.weights="{dtype}"', *(flags.pop("set") or ())]
    if not flags["model"]:
        raise UsageError("--model is missing: give a name on the Hugging Face hub, or a directory")
    spec = ExperimentSpec.from_flags(set_values=set_values, freeze_llm=True, **flags)
    refuse_bad_paths(spec, runs_dir, resume=None, fresh=False)
    from emergence.commands.probe import ProbeRequest, probe_model

    probe_model(ProbeRequest(spec=spec, revisions=revisions, seeds=seeds, twins=twins), runs_dir)


@app.command("revisions")
def revisions_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name on the Hugging Face hub, or a directory.")],
    revisions: Annotated[str, typer.Option(metavar="A,B,...|all|log12", help="Which to examine.")] = "all",
    loss: Annotated[bool, typer.Option(help="Load each for its loss; without, bytes alone are compared.")] = True,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the weights in memory.")] = "fp32",
    runs_dir: Annotated[
        Path | None,
        typer.Option(
            help="Keep what is found there, for table, curves and report.",
            parser=named("--runs-dir"),
            metavar="<path>",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Which revisions of a published model are what they say: copies, mixed shards, exchanged and foreign weights."""
    refuse_missing_model(model)
    from emergence.commands.probe import show_revisions

    show_revisions(model, revisions, runs_dir, with_loss=loss, precision=dtype, as_json=as_json)


@app.command("minimal-pairs")
def minimal_pairs_command(
    name: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run; a model's directory or hub name.")],
    data: Annotated[
        str, typer.Option(metavar="SET|FILE", help="microworld-roles, blimp-argstructure, BLiMP's .jsonl, a folder.")
    ] = "microworld-roles",
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Also every snapshot of pretraining.")] = False,
    revision: Revision = None,
    out: StudyFolder = None,
    dtype: WeightsType = "fp32",
    device: Device = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """How often a model gives the better of two sentences the higher probability, with and without BOS.

    \b
    microworld-roles    the same words, agent and patient exchanged; bigrams are right in half of them
    blimp-argstructure  the nine argument-structure paradigms of BLiMP, from the hub
    """
    refuse_missing_subject(name, runs_dir)
    from emergence.commands.minimal_pairs import score_minimal_pairs
    from emergence.files import to_json

    result = score_minimal_pairs(
        name, data, runs_dir, snapshots=snapshots, revision=revision, out=out, precision=dtype, device=device
    )
    say(to_json(result.to_dict(), indent=2) if as_json else result.text())


@app.command("ie")
def ie_command(
    name: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run; a model's directory or hub name.")],
    texts: Annotated[
        str,
        typer.Option(
            metavar="TEXTS|FILE",
            help="icl-country, icl-animal, icl-colour; sentences (of a run's questions); or a file, one text a line.",
        ),
    ] = "icl-country",
    length: Annotated[
        int | None, typer.Option(min=1, metavar="T", help="Tokens of a text: 2 a shot; cuts the lines of a file.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Blocks to estimate, e.g. 0,2,3.")] = "all",
    n: Annotated[int, typer.Option("--n", min=1, help="Texts; half of them fit the pooling.")] = 20_000,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of texts, controls, noise and random twins.")] = 3,
    dimensions: Annotated[int, typer.Option(min=4, help="Most dimensions that states are pooled to.")] = 64,
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Every snapshot of pretraining, as a curve.")] = False,
    revision: Revision = None,
    out: StudyFolder = None,
    dtype: WeightsType = "fp32",
    device: Device = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Information emergence: what layers tell of each other for whole texts beyond single tokens, against controls.

    \b
    emergence ie RUN --texts icl-animal --length 6
    emergence ie RUN --texts sentences --n 2000 --dimensions 32    a run on the micro-world: its own sentences
    emergence ie RUN --texts answers.txt --length 8    texts of any origin, as this model sees them
    """
    chosen = parse_layers(None if layers == "all" else layers)
    refuse_missing_subject(name, runs_dir)
    from emergence.data.token_texts import refuse_missing_texts

    refuse_missing_texts(texts)
    from emergence.commands.information import measure_information
    from emergence.files import to_json
    from emergence.studies.information.measure import Options

    options = Options(n=n, seeds=seeds, dimensions=dimensions, layers=chosen)
    result = measure_information(
        name, texts, runs_dir, options, length=length, revision=revision, snapshots=snapshots, out=out,
        precision=dtype, device=device,
    )  # fmt: skip
    say(to_json(result.to_dict(), indent=2) if as_json else result.text())


@app.command("units")
def units_command(
    name: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run; a model's directory or hub name.")],
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Also every snapshot of pretraining.")] = False,
    roles: Annotated[Literal["gold", "wh"], typer.Option(help="Semantic roles, or wh-words in their place.")] = "gold",
    kind: Annotated[str, typer.Option(metavar="mlp,head", help="MLP neurons, attention heads.")] = "mlp,head",
    questions: Annotated[int, typer.Option(min=20, help="Validation and test questions each, over all roles.")] = 400,
    draws: Annotated[int, typer.Option(min=2, help="Random sets that a set of units is compared with.")] = 3,
    data: Annotated[
        Literal["hub", "microworld"] | None, typer.Option(help="Of a model: its questions (default: QA-SRL, hub).")
    ] = None,
    qa_data: Annotated[str | None, typer.Option(help="Where the questions lie (default: the run's own).")] = None,
    revision: Revision = None,
    out: StudyFolder = None,
    dtype: WeightsType = "fp32",
    device: Device = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Units that tell semantic roles: how selective, what cutting them costs, and how few carry a role.

    \b
    emergence units RUN                            the trunk beside its random twin
    emergence units RUN --snapshots --kind mlp     and over pretraining, neurons alone
    emergence units my-model --data microworld     a published model on the micro-world's questions
    """
    refuse_missing_subject(name, runs_dir)
    from emergence.commands.units import UnitRequest, examine_units
    from emergence.files import to_json
    from emergence.studies.units.options import UnitOptions, parse_kinds

    chosen = parse_kinds(parse_list(kind) or ())
    options = UnitOptions(roles=roles, kinds=chosen, questions=questions, draws=draws, snapshots=snapshots)
    request = UnitRequest(
        options=options, qa_data=qa_data, data=data, revision=revision, precision=dtype, out=out, device=device
    )
    result = examine_units(name, runs_dir, request)
    say(to_json(result.to_dict(), indent=2) if as_json else result.text())


@app.command("probe-snapshots")
def probe_snapshots_command(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name in --runs-dir.")],
    families: Annotated[str | None, typer.Option(help="Probes, e.g. linear,bilinear (default: the run's).")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers, e.g. 0,2,3 (default: all; 0 is the embeddings).")] = None,
    every: Annotated[int, typer.Option(help="Every n-th snapshot; first and last always.")] = 1,
    finetune_samples: Annotated[
        int | None, typer.Option(help="Training questions (default: 2000, or all if fewer; 0: all).")
    ] = None,
    loss_tokens: Annotated[int, typer.Option(help="Most held-out tokens scored; the same for all (0: all).")] = 65_536,
    random_trunks: Annotated[int, typer.Option(help="Untrained trunks to probe as the floor.")] = 1,
    qa_data: Annotated[str | None, typer.Option(help="Where the run's questions lie now.")] = None,
    pretrain_text: Annotated[str | None, typer.Option(help="Where the run's pretraining text lies now.")] = None,
    device: Device = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """The frozen probe of every pretraining snapshot: F1 and continuous scores against loss, tokens and steps."""
    run_dir = find_run(run_id, runs_dir)
    from emergence.experiment.stop_switch import StopSwitch
    from emergence.experiment.store import CACHE_FOLDER
    from emergence.files import to_json
    from emergence.studies.snapshots.options import SnapshotOptions
    from emergence.studies.snapshots.probes import probe_snapshots
    from emergence.studies.snapshots.result import FILES
    from emergence.training.recording import TerminalProgress, plain_messages

    options = SnapshotOptions(
        families=parse_list(families),
        layers=parse_layers(layers),
        every=every,
        samples=finetune_samples,
        loss_tokens=loss_tokens,
        random_trunks=random_trunks,
        qa_data=qa_data,
        pretrain_text=pretrain_text,
        cache_dir=run_dir.parent / CACHE_FOLDER,
        device=device,
    )
    with plain_messages(), StopSwitch() as should_stop:
        result = probe_snapshots(run_dir, options, progress=TerminalProgress(), should_stop=should_stop)
    say(to_json(result.to_dict(), indent=2) if as_json else result.text())
    if not as_json:
        say(f"kept in {run_dir / FILES.folder}; emergence curves and emergence report show them as curves", err=True)


@app.command("fewshot")
def fewshot_command(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name in --runs-dir.")],
    shots: Annotated[str, typer.Option(metavar="K,...", help="Training questions in a prompt.")] = "0,5",
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Also every snapshot of pretraining.")] = False,
    questions: Annotated[int, typer.Option(help="Test questions that are asked (0: all).")] = 0,
    qa_data: Annotated[str | None, typer.Option(help="Where the run's questions lie now.")] = None,
    pretrain_text: Annotated[str | None, typer.Option(help="Where the run's pretraining text lies now.")] = None,
    out: StudyFolder = None,
    device: Device = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """What the language model alone answers from a prompt: every span scored, nothing trained; the few-shot target.

    A prompt is K training questions with their answers, then the question. Spans are scored by their log-probability
    (raw), and by that less the one after the same prompt without the questions (PMI).

    \b
    emergence fewshot RUN --shots 0,5 --snapshots
    """
    run_dir = find_run(run_id, runs_dir)
    from emergence.commands.fewshot import answer_from_prompts
    from emergence.experiment.store import CACHE_FOLDER
    from emergence.files import to_json
    from emergence.studies.prompted.answer import PromptedOptions, parse_shots

    options = PromptedOptions(
        shots=parse_shots(shots),
        questions=questions,
        snapshots=snapshots,
        qa_data=qa_data,
        pretrain_text=pretrain_text,
        cache_dir=run_dir.parent / CACHE_FOLDER,
        device=device,
    )
    result = answer_from_prompts(run_id, runs_dir, options, out)
    say(to_json(result.to_dict(), indent=2) if as_json else result.text())


@app.command("cka")
@takes(*(each for each in flags_of(AnalysisFlags) if each.name not in ("model_dir", "gpu")))
def cka_command(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or its name in --runs-dir.")] = "",
    model: Annotated[
        str | None, typer.Option(help="Instead of a run: a published model, compared with its last revision.")
    ] = None,
    revisions: Annotated[
        str | None, typer.Option(metavar="A,B,...|all|log12", help="Of --model: which (default: log12).")
    ] = None,
    data: Annotated[
        DataRoute | None, typer.Option(help="Of --model: where its questions are from (default: hub).")
    ] = None,
    dtype: WeightsType = "fp32",
    runs_dir: RunsDir = DEFAULT_RUNS,
    **flags: Any,
) -> None:
    """How representations change over pretraining and finetuning: temporal CKA, on this machine.

    \b
    emergence cka RUN
    emergence cka --model EleutherAI/pythia-70m --revisions log12      suspect revisions are left out and named
    """
    if (model is None) == (run_id == ""):
        raise UsageError("give a run, or a published model with --model: one of the two")
    asked = AnalysisFlags(model_dir=run_id or str(model), **flags)
    asked.check()
    if model is not None:
        refuse_if_no_folder(runs_dir)
        refuse_missing_model(model)
        values = [f'probe.weights="{dtype}"']
        spec = ExperimentSpec.from_flags(model=model, freeze_llm=True, data=data or "hub", set_values=values)
        from emergence.commands.cka import ModelHistory, analyse_model

        say(analyse_model(ModelHistory(spec=spec, revisions=revisions or "log12"), asked, runs_dir))
        return
    if revisions is not None or data is not None:
        raise UsageError("--revisions and --data are of --model; a run has its snapshots, and its questions")
    for name in asked.runs():
        find_run(name, runs_dir)
    say(analyse_locally(asked, runs_dir))


app.command("verify")(verify_command)


@app.command("curves")
def curves_command(
    results_dir: Annotated[
        Path, typer.Argument(metavar="DIR", help="Run directories and results files, or one run.")
    ] = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Emergence over snapshots (thresholds, artefact or not), over sizes; what questions and word order give."""
    refuse_if_no_results(results_dir)
    from emergence.findings.curves import read_curves

    say(read_curves(results_dir).shown(as_json))


@app.command("demo")
def demo_command(
    runs_dir: RunsDir = DEFAULT_RUNS / "demo",
    seed: Annotated[int, typer.Option(help="Seed of the four runs.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run all four cells anew.")] = False,
) -> None:
    """The whole experiment on the built-in micro-world: the 2x2, score and gap, in a few minutes on a CPU."""
    refuse_if_no_folder(runs_dir)
    from emergence.commands.demo import run_demo

    run_demo(runs_dir, seed=seed, fresh=fresh)


@app.command("doctor")
def doctor_command(
    as_json: AsJson = False,
) -> None:
    """What this machine can do, what is missing, and what to do about it."""
    from emergence.commands.doctor import diagnose, format_checks

    checks = diagnose()
    say(format_checks(checks, as_json=as_json))
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)


def _refuse_before_writing(results_dir: Path, out: Path | None, name: str) -> None:
    """Refuse a folder without results, or a place for files that cannot be one, before anything heavy is imported.

    Args:
        name: Of the folder in ``results_dir`` that they go to where no ``--out`` was given.
    """
    refuse_if_no_results(results_dir)
    if out is None and (results_dir / SPEC_FILE).is_file():
        raise UsageError(f"{results_dir} is one run, which holds nothing but its own files: name a folder with --out")
    refuse_output_folder(out or results_dir / name)


def _list_runs(runs_dir: Path, as_json: bool) -> None:
    import json

    from emergence.experiment.listing import HOW_CHECKED, SPARE_COLUMNS, format_listing, list_runs, rows_of

    summaries = list_runs(runs_dir)
    if as_json:
        say(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    elif summaries and is_terminal():
        titles, *rows = rows_of(summaries)
        say(f"{fitted_table(titles, rows, left=6, spare=SPARE_COLUMNS)}\n{fitted_text([HOW_CHECKED])}")
    elif summaries:
        say(format_listing(summaries))
    else:
        folders = sorted(runs_dir.glob("*/")) if runs_dir.is_dir() else []
        below = in_line(str(next((path for path in folders if list_runs(path)), "")))
        there = f"; {below} has some: emergence list {below}" if below else ""
        say(f"no runs in {in_line(str(runs_dir))}" + (there or ": start one with `emergence run`"))


if __name__ == "__main__":
    run()
