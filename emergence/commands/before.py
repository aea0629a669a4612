"""What a run is refused for before torch is imported: paths that lead nowhere. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emergence.data.file_search import files_at
from emergence.errors import UsageError, require_packages
from emergence.experiment.store import RunStore, refuse_if_no_folder
from emergence.spec.adapters import lora_rank
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.published import is_directory, model_folder, weights_file


def named(flag: str) -> Callable[[str | Path], Path]:
    """A reader of the path that ``flag`` names. An empty name would be the folder that the command is typed in."""

    def path_of(name: str | Path) -> Path:
        if name == "":
            raise UsageError(f"{flag}: an empty name: give one, or . for this folder")
        return Path(name)

    return path_of


def refuse_bad_paths(spec: ExperimentSpec | None, runs_dir: Path, *, resume: str | None, fresh: bool) -> None:
    """Refuse a run whose folder, weights or data are not there. What has finished already needs none of them.

    Args:
        spec: What to run; None with ``resume``, the name of a run to go on with.
        fresh: A finished run does not count.

    Raises:
        UsageError: A path leads nowhere, or may not be written to. The message names it.
    """
    refuse_if_no_folder(runs_dir)
    store = RunStore(runs_dir)
    if resume is not None:
        spec = store.open(resume).spec
    if spec is None or (not fresh and store.find_finished(spec) is not None):
        return
    if spec.model:
        refuse_missing_model(spec.model)
    if lora_rank(spec.adapter):
        require_packages(f"--adapter {spec.adapter}", "peft")
    if spec.skip_pretrain and spec.pretrained_model_path:
        store.resolve_weights(spec.pretrained_model_path)
    if spec.pretrains and spec.pretrain_text:
        files_at(Path(spec.pretrain_text), "--pretrain-text")
    if spec.pretrains and spec.nq_data:
        files_at(Path(spec.nq_data), "--nq-data")
    if not spec.skip_finetune and spec.qa_data:
        files_at(Path(spec.qa_data), "--qa-data")


def refuse_missing_model(name: str) -> None:
    """Refuse a published model's directory or file that is not there. Names on the hub are asked for later.

    Raises:
        UsageError: There is no such directory or file.
    """
    if weights_file(name) is None and is_directory(name):
        model_folder(name)
