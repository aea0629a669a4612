"""How a run's representations change over pretraining and finetuning: temporal CKA.

    python temporal_cka_analysis.py --model-dir runs/RUN --config-name tiny       a run on this machine
    modal run temporal_cka_analysis.py --model-dir RUN --config-name tiny         a run on the volume llm-models

Writes ``analysis/temporal_cka/temporal_cka.json`` and ``.npz`` into the run directory and prints the tables.
"""

from __future__ import annotations

import sys
from typing import Any

from emergence.errors import installed

with installed():
    from emergence.remote.app import app
    from emergence.remote.client import check_analysis_first, launch_analysis, run_as_program
    from emergence.spec.flags import flags_of, takes
    from emergence.studies.cka.analyse import AnalysisFlags


@app.local_entrypoint()
@takes(*flags_of(AnalysisFlags), client="modal")
def main(**flags: Any) -> None:
    """Analyse one run on the volume, or compare two of them."""
    launch_analysis(AnalysisFlags(**flags))


check_analysis_first(__file__, __doc__)
if __name__ == "__main__":
    sys.exit(run_as_program(__doc__))
