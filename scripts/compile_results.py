"""The results table of a folder of run directories or downloaded ``finetune_stats.json`` files.

    python scripts/compile_results.py --results-dir ./results/ [--format markdown|latex|csv|json] [--output FILE]

The same as ``emergence table ./results/``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from emergence.errors import installed

with installed():
    import typer

    from emergence.cli import Cluster, TableFile, TableStyle, run, table_command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    results_dir: Annotated[Path, typer.Option(help="Folder of run directories or renamed stats files.")] = Path(
        "results"
    ),
    style: TableStyle = None,
    output: TableFile = None,
    cluster: Cluster = "sentence",
) -> None:
    """What ``emergence table`` does."""
    table_command(results_dir, style, output, cluster)


if __name__ == "__main__":
    run(app)
