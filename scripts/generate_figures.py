"""Draw every figure that a folder of runs and downloaded results allows.

    python scripts/generate_figures.py --results-dir ./results/ [--out DIR]

The same as ``emergence figures``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from emergence.errors import EmergenceError


def main() -> int:
    """Draw, and say what was drawn and what was not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="run directories, results files")
    parser.add_argument("--out", type=Path, help="where figures go (default: figures in the results folder)")
    flags = parser.parse_args()
    try:
        from emergence.analysis.figures import make_figures

        print(make_figures(flags.results_dir, flags.out).text())
    except EmergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
