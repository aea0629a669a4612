"""``python -m benchmarks ROW ...|all|table|scaling|figure``: measure, save as JSON, make the documentation from it."""

from __future__ import annotations

import argparse
import compileall
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.materials import Bench
from benchmarks.measure import ROOT, best_precision, machine, versions
from benchmarks.report import file_name, is_result, load_newest, save
from benchmarks.rows import ON_GPU, ROWS, run_row
from benchmarks.table import OWN_RESULTS, machine_of, write_table
from emergence.environment import variables
from emergence.errors import DataError, EmergenceError, UsageError
from emergence.experiment.source_commit import source_commit
from emergence.files import make_folder, may_write, read_json
from emergence.training.precision import select_device
from emergence.wording import did_you_mean

#: What the documentation is made of. A measurement goes there only where ``--results`` names it.
RESULTS = Path(__file__).resolve().parent / "results"
#: What can be named in a row's place, without others.
_NO_ROWS = ("all", "table", "scaling", "figure")
DEFAULT_RESULTS = Path("benchmark-results")
DOCS = Path(__file__).resolve().parents[1] / "docs"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        return _run(options)
    except EmergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    known = [*ROWS, *_NO_ROWS]
    if unknown := next((name for name in options.what if name not in known), None):
        raise UsageError(f"no row {unknown!r}; {did_you_mean(unknown, known)}")
    for flag, path in (("--text", options.text), ("--questions", options.questions)):
        if path is not None and not path.exists():
            raise UsageError(f"{path}: no such file or folder: check {flag}")
    try:
        options.results.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle; a name too long, or with a NUL
        raise UsageError(f"{str(options.results)[:200]!r}: no folder: check --results") from None
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats}: at least 1")
    if len(options.what) > 1:
        if alone := set(_NO_ROWS) & set(options.what):
            raise UsageError(f"{min(alone)} stands alone: name it without others")
        if twice := next((name for name in options.what if options.what.count(name) > 1), None):
            raise UsageError(f"{twice} is named twice")
    if options.json and (len(options.what) > 1 or options.what[0] in ("all", "table", "figure")):
        raise UsageError("--json FILE is for one row or for scaling: --results DIR keeps several")
    if options.what == ["table"]:
        name = OWN_RESULTS if _is_own(options.results) else str(options.results)
        print(write_table(options.results, _pages(options.results) / "speed.md", name))
        return 0
    if options.what == ["figure"]:
        for line in _figures(options.results):
            print(line)
        return 0
    device = select_device(options.device)
    measurable = [name for name in ROWS if device.type == "cpu" or name in ON_GPU]
    # Scaling, too, has parts that compute on the CPU.
    if device.type == "cuda" and (
        foreign := next((name for name in options.what if name not in (*measurable, "all")), None)
    ):
        raise UsageError(f"{foreign} computes on the CPU alone: leave out --device {options.device}")
    _refuse_targets(options)
    torch.set_num_threads(1)
    bench = Bench(
        repeats=options.repeats, device=device, text=options.text, questions=options.questions, toy=options.toy
    )
    about = {
        "machine": machine(device),
        "versions": versions(),
        "precision": best_precision(device),
        "device": device.type,
        **source_commit(),
        "repeats": options.repeats,
        "toy": options.toy,
    }
    print(f"{about['machine']['kind']}: {machine_of(about)}", flush=True)
    if options.what == ["scaling"]:
        from benchmarks.scaling import draw, measure_scaling

        found = {**measure_scaling(bench), **about}
        if not options.json and _is_toy_among_measurements(options):
            return 0
        save(found, options.json or options.results / "scaling.json")
        figures = options.json.parent if options.json else _pages(options.results) / "figures"
        print(draw(found, figures / "scaling.svg"))
        return 0
    _compile_program()
    for name in measurable if options.what == ["all"] else options.what:
        with _commands_on(device):
            result = run_row(name, bench)
        print(result.text(options.toy), flush=True)
        if not options.json and _is_toy_among_measurements(options):
            continue
        content = result.to_dict(about)
        save(content, options.json or options.results / file_name(content))
    return 0


def _compile_program() -> None:
    """Compile what commands run that a row starts. Installed programs are compiled.

    Where the environment forbids keeping what was compiled, as images for containers do, each command would compile the
    program anew: a tenth of the table's time.
    """
    if not compileall.compile_dir(str(ROOT / "emergence"), quiet=2):
        print(f"{ROOT / 'emergence'}: cannot be compiled, so commands take longer than installed ones", flush=True)


def _commands_on(device: torch.device) -> AbstractContextManager[None]:
    """Commands that a row starts take a GPU where they find one, so a row of the CPU hides it from them."""
    return variables({} if device.type == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})


def _is_own(results: Path) -> bool:
    """Whether the documentation is made of these results."""
    return results.resolve() == RESULTS.resolve()


def _refuse_targets(options: argparse.Namespace) -> None:
    """Refuse, before hours of measuring, what cannot be written to, and measurements in a toy's way.

    Raises:
        EmergenceError: With the path.
    """
    target: Path = options.json or options.results
    if options.json and target.is_dir():
        raise UsageError(f"{target}: a folder: give --json a file")
    if options.json and target.exists() and not target.is_file():
        raise UsageError(f"{target}: no regular file: name another --json")
    if not options.json and target.exists() and not target.is_dir():
        raise UsageError(f"{target}: a file: give --results a folder")
    folder = make_folder(target.parent if options.json else target)
    if not may_write(target if target.exists() else folder):
        raise UsageError(f"{target}: cannot be written: check {'--json' if options.json else '--results'}")
    if options.json and target.is_file():
        try:
            found = read_json(target, DataError)
        except DataError:
            found = None
        if not is_result(found):
            raise UsageError(f"{target}: no result of these benchmarks, so it is not overwritten: name another --json")
    if options.toy and not (options.json is None and _is_own(options.results)):
        for file in [target] if options.json else sorted(target.glob("*.json")):
            found = read_json(file, DataError) if file.is_file() else {"toy": True}
            if not isinstance(found, dict) or not found.get("toy"):
                raise UsageError(
                    f"{file}: a measurement, among which a toy has no place: name another --json or --results"
                )


def _is_toy_among_measurements(options: argparse.Namespace) -> bool:
    """Whether a toy would lie among the project's measurements; says so."""
    if not options.toy or not _is_own(options.results):
        return False
    print("a toy is no measurement, so it is not kept: --json FILE keeps it", flush=True)
    return True


def _pages(results: Path) -> Path:
    """The folder of what is made from results: the documentation, or for others than its own beside them."""
    return DOCS if _is_own(results) else results


def _figures(results: Path) -> list[str]:
    """Draw what stored results allow; a line for each."""
    from benchmarks.rows.information_cost import draw as draw_estimates
    from benchmarks.rows.time_to_loss import draw as draw_curves

    newest = load_newest(results)
    lines = []
    on_cpu = {result["row"]: result for result in newest.values() if result["device"] == "cpu"}
    if "information-cost" in on_cpu:
        whole = results / "campaigns" / "mine_published.json"
        as_published = read_json(whole, DataError) if whole.is_file() else None
        figure = _pages(results) / "figures" / "mine_published.svg"
        lines.append(draw_estimates(dict(on_cpu["information-cost"]), figure, as_published))
    if curves := [newest[name] for name in sorted(newest) if name.startswith("time-to-loss-")]:
        lines.append(draw_curves(curves, _pages(results) / "figures" / "time_to_loss.svg"))
    if not lines:
        raise UsageError("there is no result to draw: python -m benchmarks time-to-loss-tiny")
    return lines


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)  # one line, without the usage


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="+",
                        metavar="ROW|all|table|scaling|figure",
                        help=f"a row ({', '.join(ROWS)}), all of them, docs/speed.md, how costs grow, or "
                        "the figures of loss against time and of the published estimate of information")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the rows that compute on a GPU (cpu)")
    parser.add_argument("--text", type=Path, help="text file or folder (the micro-world)")
    parser.add_argument("--questions", type=Path, help="questions, file or folder (the micro-world)")
    parser.add_argument(
        "--results",
        type=Path,
        default=DEFAULT_RESULTS,
        help=f"folder of results, their table and figures ({DEFAULT_RESULTS}); benchmarks/results holds the "
        "documentation's, whose table is docs/speed.md",
    )
    parser.add_argument("--json", type=Path, help="where one row's JSON goes (the folder of results)")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that the code runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
