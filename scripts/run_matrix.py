"""The experiment guide's whole matrix, or part of it; the same as ``emergence sweep``.

python scripts/run_matrix.py [MATRIX] [--only 'T-*,S-*'] [--seeds 3] --on local|modal
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from emergence.errors import installed

with installed():
    from emergence.cli import run
    from emergence.commands.sweep_app import app

if __name__ == "__main__":
    run(app)
