"""What a user waits for, measured against what else could be used: ``python -m benchmarks ROW``.

One module per row of the table in ``docs/speed.md``. Every row runs ours and its peers in turn, in one
process tree on one CPU thread, so that other work on the machine falls on all of them alike, and counts
CPU seconds per unit of work; a GPU and what two processes do at once are told by the clock.
"""

from __future__ import annotations

import os

from emergence.environment import THREAD_VARIABLES

# Before numpy and torch are imported: one thread here and in what is started, whatever the environment says.
os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
