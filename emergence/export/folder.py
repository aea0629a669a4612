"""An export on disk: written beside its place and renamed into it, so that it is whole or absent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from emergence.data.cache import building
from emergence.data.tokenizer import SPECIAL_TOKENS, TextTokenizer
from emergence.errors import RunDirectoryError, UsageError
from emergence.experiment.result import current_versions, load_result
from emergence.experiment.run_directory import RunDirectory
from emergence.export.architecture import architecture_of, exported_model, generation_config
from emergence.export.asked import refuse_licence
from emergence.export.card import CARD_FILE, model_card
from emergence.export.trunks import TrunkToExport, Which, trunks_to_export
from emergence.files import make_folder, read_sealed, seal, sha256_file, write_atomic, write_json_atomic
from emergence.report.output_files import refuse_output_folder
from emergence.spec.published import EXPORT_FILE, EXPORT_KIND
from emergence.studies.activations import weights_key
from emergence.training.checkpoint import WeightsFile

#: Version of the record of an exported trunk (``EXPORT_FILE``). Readers of results pass over a folder that holds one.
RECORD_VERSION = 1


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: Where it is.
        architecture: The class that loads it.
        trunks: What it holds: the trunk of the folder itself, then those of its subfolders.
    """

    folder: Path
    architecture: str
    trunks: tuple[TrunkToExport, ...]

    def lines(self) -> Iterator[str]:
        main, *steps = self.trunks
        yield f"{self.folder}: {main.what}, as {self.architecture}"
        if steps:
            yield f"{self.folder}: its pretraining in {', '.join(trunk.folder for trunk in steps)}"


def write_export(
    run: RunDirectory,
    to: Path,
    *,
    which: Which = "pretrained",
    snapshots: bool = False,
    licence: str = "apache-2.0",
    take_existing: bool = False,
) -> Export:
    """Write a run's trunk, and perhaps the steps of its pretraining, into the new folder ``to``.

    Args:
        run: A run, finished or not.
        to: A folder that is not there yet, or is empty.
        which: The trunk that finetuning starts from, or the one that it ends with.
        snapshots: Whether each snapshot of pretraining gets a subfolder ``step…`` that is a model of its own.
        licence: Of the weights, for the card.
        take_existing: Whether ``to`` may hold this very export already, whole. Then nothing is written.

    Raises:
        UsageError: Something is in ``to``, the run has no such trunk, its architecture has no twin, or ``licence`` is
            no name of one.
        WeightsError: A file is damaged, or of another run, or holds no trunk of the run's architecture.
        RunDirectoryError: The system refused a write.
    """
    refuse_output_folder(to)
    refuse_licence(licence)
    if run.spec.model is not None:
        raise UsageError(
            f"{run.run_id} probes the published model {run.spec.model}, which is one of transformers already"
        )
    architecture = architecture_of(run.spec.config.model)
    trunks = trunks_to_export(run, which, snapshots)
    is_there = to.is_dir() and any(to.iterdir())
    if is_there and not (take_existing and all(_holds(to, run, trunk) for trunk in trunks)):
        raise UsageError(f"--to {to}: this folder holds something already, and nothing is overwritten: name another")
    for trunk in trunks:  # all of them, before anything is written
        trunk.checked()
    if is_there:
        return Export(to, architecture, tuple(trunks))
    result = load_result(run.stats_path) if run.is_finished else None
    with building(to) as temporary:
        for trunk in trunks:
            weights = trunk.checked()
            record = _record(run, trunk, weights, architecture)
            folder = make_folder(temporary / trunk.folder)
            _write_model(folder, weights)
            if not trunk.folder:
                write_atomic(folder / CARD_FILE, model_card(run, result, trunks, record, licence))
            files = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
            write_json_atomic(folder / EXPORT_FILE, seal({**record, "files": files}))
    return Export(to, architecture, tuple(trunks))


def _holds(to: Path, run: RunDirectory, trunk: TrunkToExport) -> bool:
    """Whether ``to`` holds this trunk of this run, every file as it was written."""
    folder = to / trunk.folder
    try:
        record = read_sealed(folder / EXPORT_FILE)
        same = _identity(run, trunk).items() <= record.items()
        return same and all(sha256_file(folder / name) == digest for name, digest in record["files"].items())
    except (RunDirectoryError, OSError, KeyError, AttributeError):
        return False


def _identity(run: RunDirectory, trunk: TrunkToExport) -> dict[str, Any]:
    """What tells this trunk of this run from others."""
    return {
        "kind": EXPORT_KIND,
        "schema_version": RECORD_VERSION,
        "run_id": run.run_id,
        "experiment_id": run.experiment_id,
        "what": trunk.what,
        "stage": trunk.stage,
        "step": trunk.step,
    }


def _record(run: RunDirectory, trunk: TrunkToExport, weights: WeightsFile, architecture: str) -> dict[str, Any]:
    counts = weights.metadata.get("token_counts")
    spec = run.spec
    return {
        **_identity(run, trunk),
        "tokens_seen": trunk.tokens_seen,
        "architecture": architecture,
        "weights": weights_key(weights.state_dict),
        "tokenizer": TextTokenizer.from_json(weights.tokenizer_json).fingerprint,
        "pretrain_id": weights.metadata.get("pretrain_id"),
        "config_name": spec.config.name,
        "seed": spec.seed,
        "versions": current_versions(),
        # In one string, because a list would have a line for every token.
        "token_counts": None if counts is None else " ".join(str(int(count)) for count in counts),
    }


def _write_model(folder: Path, weights: WeightsFile) -> None:
    model = exported_model(weights.model, weights.vocab_rows, weights.state_dict)
    write_json_atomic(folder / "config.json", model.config)
    write_json_atomic(folder / "generation_config.json", generation_config())
    write_atomic(folder / "model.safetensors", save(model.tensors, metadata={"format": "pt"}))
    write_atomic(folder / "tokenizer.json", weights.tokenizer_json)
    write_json_atomic(folder / "tokenizer_config.json", _tokenizer_config(weights.model.sequence_length))


def _tokenizer_config(longest: int) -> dict[str, Any]:
    end_of_text, *_, padding = SPECIAL_TOKENS
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "pad_token": padding,
        "model_max_length": longest,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
