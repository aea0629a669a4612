"""``python -m benchmarks ROW ...|all|table|scaling|figure``: measure, save as JSON, make the documentation from it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.materials import Bench
from benchmarks.measure import best_precision, machine, versions
from benchmarks.report import load_newest, save
from benchmarks.rows import ROWS, run_row
from emergence.errors import EmergenceError, UsageError
from emergence.training.precision import select_device

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = Path(__file__).resolve().parents[1] / "docs"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except EmergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.what == ["table"]:
        from benchmarks.table import write_table

        print(write_table(options.results, DOCS / "speed.md"))
        return 0
    if options.what == ["figure"]:
        from benchmarks.rows.information_cost import draw as draw_estimates

        newest = load_newest(options.results).get("information-cost@cpu")
        if newest is None:
            raise UsageError("there is no result to draw: python -m benchmarks information-cost")
        whole = options.results / "campaigns" / "mine_published.json"
        as_published = json.loads(whole.read_text(encoding="utf-8")) if whole.is_file() else None
        print(draw_estimates(dict(newest), DOCS / "figures" / "mine_published.svg", as_published))
        return 0
    torch.set_num_threads(1)
    device = select_device(options.device)
    bench = Bench(
        repeats=options.repeats, device=device, text=options.text, questions=options.questions, toy=options.toy
    )
    about = {
        "machine": machine(device),
        "versions": versions(),
        "precision": best_precision(device),
        "device": device.type,
        "repeats": options.repeats,
    }
    if options.what == ["scaling"]:
        from benchmarks.scaling import draw, measure_scaling

        found = {**measure_scaling(bench), **about}
        save(found, options.json or options.results / "scaling.json")
        print(draw(found, DOCS / "figures" / "scaling.svg"))
        return 0
    rows = list(ROWS) if options.what == ["all"] else options.what
    for name in rows:
        result = run_row(name, bench)
        print(result.text(), flush=True)
        content = result.to_dict(about)
        given = options.json if len(rows) == 1 else None  # a file for one row, a folder for several
        save(content, given or options.results / f"{name}_{device.type}_{content['date']}.json")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="+", choices=[*ROWS, "all", "table", "scaling", "figure"],
                        metavar="ROW|all|table|scaling|figure",
                        help=f"a row ({', '.join(ROWS)}), all of them, docs/speed.md, how costs grow, or the figure of "
                        "what the published estimate of mutual information reports")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--text", type=Path, help="text file or folder (the micro-world)")
    parser.add_argument("--questions", type=Path, help="questions, file or folder (the micro-world)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results (benchmarks/results)")
    parser.add_argument("--json", type=Path, help="where one row's JSON goes (the folder of results)")
    parser.add_argument("--toy", action="store_true", help="sizes that only show that the code runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
