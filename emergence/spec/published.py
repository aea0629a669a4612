"""What ``--model`` names, how large it is, and what it means for the other flags. Standard library only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from emergence.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from emergence.spec.experiment import ExperimentSpec

#: A model's weights in one file, and what names the files of one in several.
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_MOST_HEADER, _MOST_INDEX = 100_000_000, 50_000_000
#: What an exported trunk says of itself, beside its weights, and what that says it is.
EXPORT_FILE, EXPORT_KIND = "emergence.json", "emergence-export"
#: The settings of ``model`` and ``pretrain`` that a published model does not bring itself.
STILL_SET = ("pretrain.precision",)
#: ``160m`` or ``0.5B`` in a model's name.
_SIZE, _UNITS = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([mMbB])(?![A-Za-z0-9])"), {"m": 1e6, "b": 1e9}
#: Names of a family that tell no size.
_UNNAMED_SIZES = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}


def is_directory(name: str) -> bool:
    """Whether ``name`` means a directory of this machine, not a name on the hub."""
    return name.startswith((".", "/", "~")) or Path(name).is_dir()


def size_in_name(name: str) -> int | None:
    """The parameters that a model's name tells; None where it tells none.

    The first such number counts: tokens seen may follow.

    >>> size_in_name("EleutherAI/pythia-160m-deduped"), size_in_name("Qwen/Qwen2.5-0.5B"), size_in_name("mixtral-8x7B")
    (160000000, 500000000, None)
    >>> size_in_name("TinyLlama-1.1B-step-50K-105b")
    1100000000
    """
    last = PurePath(name).name
    if (known := _UNNAMED_SIZES.get(last.lower())) is not None:
        return known
    found = _SIZE.search(last)
    return round(float(found[1]) * _UNITS[found[2].lower()]) if found else None


def published_parameters(name: str) -> int | None:
    """The parameters of a model: by its files where it is a directory of this machine, else as its name tells.

    Of a directory of revisions it is that of the first. None where neither tells.

    Raises:
        WeightsError: A file of the directory is damaged.
    """
    if not is_directory(name):
        return size_in_name(name)
    folder = Path(name).expanduser()
    for place in (folder, *sorted(path.parent for path in folder.glob("*/config.json"))):
        if files := _weight_files(place):
            counts = {file: _values_in(file) for file in files}
            if damaged := [file for file, count in counts.items() if count is None]:
                raise WeightsError(f"{damaged[0]}: missing, damaged or no safetensors file: fetch the model anew")
            return sum(count or 0 for count in counts.values())
    return size_in_name(name)


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, which are not all that lie there."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    try:
        index = folder / INDEX_FILE
        shards = json.loads(index.read_bytes())["weight_map"].values() if index.stat().st_size <= _MOST_INDEX else ()
        return [folder / str(shard) for shard in sorted(set(shards))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _values_in(file: Path) -> int | None:
    """The values of a safetensors file by its header; None where that cannot be read."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if length <= _MOST_HEADER else {}
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        shapes = [[int(n) for n in entry["shape"]] for entry in entries]
        ends = [int(entry["data_offsets"][1]) for entry in entries]
        is_whole = 8 + length + max(ends, default=0) <= file.stat().st_size
        count = sum(math.prod(shape) for shape in shapes)
        is_sound = is_whole and all(n >= 0 for shape in shapes for n in shape)
        return count if is_sound and 0 < count <= 8 * file.stat().st_size else None  # four bits each at least
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


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
    return key.partition(".")[0] in ("recipe", "model", "pretrain") and key not in STILL_SET
