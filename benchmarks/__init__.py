"""What a user waits for, measured against what else could be used: ``python -m benchmarks ROW``.

One module per row of the table in ``docs/speed.md``. Every row runs ours and its peers in turn, in one
process tree on one CPU thread, so that other work on the machine falls on all of them alike, and counts
CPU seconds per unit of work.
"""

from __future__ import annotations

import os

# Before numpy and torch are imported: one thread, whatever the machine.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
