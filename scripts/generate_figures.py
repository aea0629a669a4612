"""Draw every figure that a folder of runs and downloaded results allows.

    python scripts/generate_figures.py --results-dir ./results/ [--out DIR]

The same as ``emergence figures``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from emergence.errors import installed

with installed():
    import typer

    from emergence.cli import figures_command, run
    from emergence.commands.before import named

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=(__doc__ or "").partition("\n")[0])
def main(
    results_dir: Annotated[Path, typer.Option(help="Run directories, results files.")] = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where figures go (default: figures in the results folder).", parser=named("--out"), metavar="<path>"
        ),
    ] = None,
) -> None:
    """What ``emergence figures`` does."""
    figures_command(results_dir, out)


if __name__ == "__main__":
    run(app)
