"""How a run's representations change over pretraining and finetuning: temporal CKA.

    python temporal_cka_analysis.py --model-dir runs/RUN --config-name tiny       a run on this machine
    modal run temporal_cka_analysis.py --model-dir RUN --config-name tiny         a run on the volume llm-models

Writes ``analysis/temporal_cka/temporal_cka.json`` and ``.npz`` into the run directory and prints the tables.
"""

from __future__ import annotations

import sys
from typing import Literal

from emergence.remote import app
from emergence.remote_client import check_analysis_first, launch_analysis, run_as_program


@app.local_entrypoint()
def main(
    model_dir: str,
    config_name: str = "",
    against: str | None = None,
    sentences: int = 2_000,
    estimator: Literal["debiased", "biased"] = "debiased",
    kernel: Literal["linear", "rbf"] = "linear",
    bandwidth: float = 0.4,
    random_seeds: int = 5,
    seed_twin: str | None = None,
    control: str | None = None,
    qa_data: str | None = None,
    seed: int = 0,
    gpu: str = "A10G",
) -> None:
    """Analyse one run on the volume, or compare two of them."""
    launch_analysis(locals())


check_analysis_first(main, __file__)
if __name__ == "__main__":
    sys.exit(run_as_program(main, __doc__))
