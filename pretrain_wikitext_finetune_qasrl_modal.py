"""Pretrain, finetune or probe on Modal: flags -> ExperimentSpec -> a run on the volume ``llm-models``.

    modal run pretrain_wikitext_finetune_qasrl_modal.py --config-name tiny
    modal run -d pretrain_wikitext_finetune_qasrl_modal.py --config-name small     # survives your laptop
    modal run pretrain_wikitext_finetune_qasrl_modal.py --list-saved

Needs ``pip install modal`` and this checkout, nothing else; docs/modal.md has every flag.
"""

from __future__ import annotations

from emergence.config import ConfigName
from emergence.remote import app
from emergence.remote_client import check_flags_first, launch
from emergence.spec import DataRoute, FinetuneData, Layout, OnNan, PretrainData


@app.local_entrypoint()
def main(
    config_name: ConfigName = "tiny",
    pretrain_data: PretrainData = "wiki",
    freeze_llm: bool = False,
    random_baseline: bool = False,
    finetune_samples: int | None = None,
    skip_pretrain: bool = False,
    pretrained_model_path: str | None = None,
    skip_finetune: bool = False,
    list_saved: bool = False,
    seed: int = 0,
    layout: Layout = "question-first",
    finetune_data: FinetuneData = "qasrl",
    data: DataRoute = "hub",
    pretrain_text: str | None = None,
    nq_data: str | None = None,
    qa_data: str | None = None,
    on_nan: OnNan = "stop",
    set: str | None = None,
    gpu: str | None = None,
    resume: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    max_cost: float | None = None,
    yes: bool = False,
) -> None:
    """Launch one experiment, or list the saved ones."""
    launch(main, locals())


check_flags_first(main, __file__)
