"""An experiment small enough for the stand-in, as command lines say it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINT = "pretrain_wikitext_finetune_qasrl_modal.py"
#: For ``--set``: the micro-world and a model of ten thousand parameters, some seconds from start to end.
SMALL = ",".join(
    [
        "microworld.text_documents=60",
        "microworld.train_documents=12",
        "microworld.validation_documents=6",
        "microworld.test_documents=6",
        "model.vocab_size=400",
        "model.n_layers=1",
        "model.hidden_size=16",
        "model.n_heads=2",
        "model.sequence_length=64",
        "pretrain.samples_per_epoch=800",
        "pretrain.max_passes=100",
        "pretrain.batch_size=8",
        "pretrain.evaluations_per_epoch=2",
        "pretrain.validation_tokens=512",
        "pretrain.step_snapshots=2",
        "pretrain.checkpoint_every_steps=5",
        "pretrain.compile=off",
        "finetune.epochs=3",
        "finetune.search=off",
        "finetune.checkpoint_every_steps=3",
        "probe.epochs=2",
        "probe.max_iterations=10",
        "evaluate.bootstrap_draws=100",
        "evaluate.minimal_pairs=0",
    ]
)
FLAGS = ("--config-name", "tiny", "--data", "microworld", "--set", SMALL)
