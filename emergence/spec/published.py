"""What ``--model`` means for the other flags of an experiment. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from emergence.errors import UsageError

if TYPE_CHECKING:
    from emergence.spec.experiment import ExperimentSpec

#: What an exported trunk says of itself, beside its weights, and what that says it is.
EXPORT_FILE, EXPORT_KIND = "emergence.json", "emergence-export"
#: The settings of ``model`` and ``pretrain`` that a published model does not bring itself.
STILL_SET = ("pretrain.precision",)


def is_directory(name: str) -> bool:
    """Whether ``name`` means a directory of this machine, not a name on the hub."""
    return name.startswith((".", "/", "~")) or Path(name).is_dir()


def weights_file(name: str) -> Path | None:
    """The ``.pth`` file that ``name`` means; None for a directory or a name on the hub.

    Raises:
        UsageError: There is no such file.
    """
    path = Path(name).expanduser()
    if path.suffix != ".pth" or path.is_dir():
        return None
    if not path.is_file():
        raise UsageError(f"{name}: there is no such file")
    return path


def model_folder(name: str) -> Path:
    """The directory that ``name`` means.

    Raises:
        UsageError: There is no such directory.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UsageError(f"{name}: there is no such directory: give a model's directory, or its name on the hub")
    return folder


def size_name(name: str) -> str:
    """What stands for a model where a size stands otherwise: the last part of its name, without odd characters.

    Of a weights file in a folder it is the folder's name, since such files are all called alike.

    >>> size_name("Qwen/Qwen2.5-0.5B"), size_name("./exports/tiny/"), size_name("TinyQA_1/toy_llm_pretrained.pth")
    ('Qwen2-5-0-5B', 'tiny', 'TinyQA_1')
    """
    path = PurePath(name)
    if path.suffix == ".pth":
        path = path.parent if path.parent.name else path.with_suffix("")
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.name).strip("-_") or "model"


def refuse_with_model(spec: ExperimentSpec, overrides: Iterable[str] = ()) -> None:
    """Refuse what makes no sense for a published model.

    Args:
        overrides: ``section.key=value`` as given.

    Raises:
        UsageError: The message names the flag.
    """
    unused = {
        "--pretrained-model-path": spec.pretrained_model_path,
        "--pretrain-data": spec.pretrain_data != "wiki",
        "--pretrain-text": spec.pretrain_text,
        "--nq-data": spec.nq_data,
        "--skip-finetune": spec.skip_finetune,
    }
    if given := next((flag for flag, value in unused.items() if value), None):
        raise UsageError(f"--model is pretrained already, so {given} has nothing to do: drop one of the two")
    if not spec.freeze_llm:
        raise UsageError("--model is probed frozen, not finetuned: add --freeze-llm, or use emergence probe --model")
    if spec.config.finetune.marks == "special":
        raise UsageError("--model never saw tokens of this program: drop --set finetune.marks=special")
    if given := next((override for override in overrides if changes_nothing(override)), None):
        raise UsageError(f"--set {given} changes nothing in a published model: drop it")


def changes_nothing(override: str) -> bool:
    """Whether ``section.key=value`` sets what a published model brings itself."""
    key = override.partition("=")[0].strip()
    return key.partition(".")[0] in ("model", "pretrain") and key not in STILL_SET
