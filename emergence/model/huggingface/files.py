"""Where a published model lies, and whether it can be read: all that is known before a weight is loaded.

A model is a local directory, a name on the hub, or a ``.pth`` file of the original study (``toy_llm``). A whole copy in
the hub's cache is used as it is; otherwise it is fetched. Of a local directory a revision is a subfolder, of the hub a
branch, a tag or a commit. Weights of others are safetensors alone, because a pickle can run code when it is read, and
code that comes with a model is never run.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.errors import EmergenceError, UsageError, WeightsError, require_packages
from emergence.files import content_digest, parse_json, read_regular
from emergence.model.huggingface.own_export import OwnExport, read_own_export
from emergence.model.huggingface.tensors import FLOATS, TensorEntry, group_digests, group_sketches, read_entries
from emergence.spec.published import INDEX_FILE, SINGLE_FILE, is_directory, model_folder

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
_MOST_JSON = 50_000_000
#: What is fetched from the hub. Tokenizers come in several forms.
_WANTED = [CONFIG_FILE, "generation_config.json", "*.safetensors", INDEX_FILE, "tokenizer*", "special_tokens_map.json",
           "added_tokens.json", "vocab.json", "merges.txt", "*.model"]  # fmt: skip
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
#: Tokens of a step of families whose revisions name steps alone, by a part of the model's name.
_TOKENS_A_STEP = {"EleutherAI/pythia": 2_097_152}
#: Sizes that a configuration may name, and the most that is believed.
_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), 1_000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), 10_000),
    **dict.fromkeys(("hidden_size", "n_embd", "intermediate_size", "head_dim", "d_model"), 1_000_000),
    "vocab_size": 10_000_000,
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class ModelFiles:
    """One revision of a model on this machine.

    Attributes:
        name: As it was asked for: a directory or a name on the hub.
        revision: As it was asked for; None for the directory itself, or the hub's main branch.
        folder: Where its files lie. commit: The hub's commit; None for a local directory.
        config: Its ``config.json``.
        weights: Its safetensors files.
    """

    name: str
    revision: str | None
    folder: Path
    commit: str | None
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def label(self) -> str:
        """In words, for messages."""
        return f"{self.name}, revision {self.revision}" if self.revision else self.name

    @cached_property
    def own_export(self) -> OwnExport | None:
        """What ``emergence export`` wrote beside it; None for anybody else's model."""
        return read_own_export(self.folder)

    @property
    def progress(self) -> dict[str, int]:
        """``steps`` and ``tokens_seen``, as far as its record or its revision's name tells."""
        own = self.own_export
        told = {"steps": own.step, "tokens_seen": own.tokens_seen} if own else {}
        named = progress_of(self.revision, self.name)
        return named | {key: value for key, value in told.items() if value is not None}

    @cached_property
    def entries(self) -> tuple[TensorEntry, ...]:
        """All tensors, with their places.

        Raises:
            WeightsError: A file is damaged.
        """
        entries = tuple(entry for path in self.weights for entry in read_entries(path))
        twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
        if twice:
            raise WeightsError(f"{self.label}: two of its files hold {twice[0][:100]}: nobody can tell which counts")
        whole = [entry for entry in entries if entry.dtype not in FLOATS and entry.name.endswith(".weight")]
        if whole:
            raise WeightsError(
                f"{self.label}: {whole[0].name[:100]} is of the type {whole[0].dtype}: quantised weights are not read, "
                "so give the model in floating-point numbers"
            )
        return entries

    @cached_property
    def digests(self) -> dict[str, str]:
        """Group of tensors -> sha256. All bytes are read."""
        return group_digests(self.entries)

    @cached_property
    def weights_digest(self) -> str:
        """Identity of the weights, by all their bytes."""
        return content_digest(self.digests)

    def digest_in(self, precision: str) -> str:
        """Identity of the weights as they are held in ``fp32`` or ``bf16``."""
        return content_digest({"groups": self.digests, "precision": precision})

    @cached_property
    def sketches(self) -> dict[str, npt.NDArray[np.float64]]:
        """Group of tensors -> some of its values. Few bytes are read."""
        return group_sketches(self.entries)

    @property
    def n_values(self) -> int:
        """Number of floating-point values in the files."""
        return sum(entry.size for entry in self.entries if entry.dtype in FLOATS)


def find_model(name: str, revision: str | None = None, *, cache_dir: Path | None = None) -> ModelFiles:
    """The files of a model, fetched if need be.

    Args:
        name: A directory, a name on the hub such as ``EleutherAI/pythia-70m``, or weights of
            :mod:`~emergence.model.huggingface.toy_llm`.
        revision: A subfolder of the directory; a branch, tag or commit of the hub.
        cache_dir: The hub's cache, if it is not in its usual place.

    Raises:
        UsageError: There is no such model or revision, no copy of it without a connection, it is not a causal language
            model, or it needs code of its own.
        WeightsError: It has no safetensors files, or a part of them is missing or damaged.
    """
    require_packages("reading a published model", "transformers")
    from emergence.model.huggingface.toy_llm import find_toy_llm

    if (toy := find_toy_llm(name, revision)) is not None:
        return toy
    place, commit = _local(name, revision), None
    if place is None:
        place = _from_hub(name, revision, cache_dir)
        commit = place.name
    config = _read_json(place / CONFIG_FILE, f"{name} is not a model's directory")
    _refuse_other_kinds(name, config)
    _refuse_odd_sizes(place / CONFIG_FILE, config)
    return ModelFiles(name, revision, place, commit, config, _weights_of(place, name))


def progress_of(revision: str | None, name: str = "") -> dict[str, int]:
    """``steps`` and ``tokens_seen`` that the names of a revision and its model tell, as far as they do.

    >>> progress_of("stage1-step1000-tokens5B"), progress_of("step512"), progress_of("main")
    ({'steps': 1000, 'tokens_seen': 5000000000}, {'steps': 512}, {})
    """
    step, tokens = re.search(r"step[-_]?(\d+)", revision or ""), re.search(r"tokens[-_]?(\d+)B", revision or "")
    known: dict[str, int] = {"steps": int(step[1])} if step else {}
    a_step = next((count for part, count in _TOKENS_A_STEP.items() if part in name), None)
    if tokens:
        known["tokens_seen"] = int(tokens[1]) * 10**9
    elif step and a_step:
        known["tokens_seen"] = int(step[1]) * a_step
    return known


def list_revisions(name: str, *, cache_dir: Path | None = None) -> list[str]:
    """The revisions of a model that name a training step, by step.

    Of a directory these are subfolders; of the hub its branches, or without a connection those in the cache.

    Raises:
        UsageError: There are none, or the hub has no such model.
    """
    from emergence.model.huggingface.toy_llm import toy_llm_path

    if toy_llm_path(name) is not None:
        raise UsageError(f"{name} has no revisions that name a step: of its folder take --revision pretrain_epoch_1")
    if is_directory(name):
        folder = model_folder(name)
        found = [path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}")]
    else:
        found = _branches(name, cache_dir)
    steps = {revision: progress_of(revision).get("steps") for revision in found}
    named = sorted((r for r in found if steps[r] is not None), key=lambda r: (steps[r], r))
    if not named:
        what = "subfolders" if is_directory(name) else "branches"
        raise UsageError(f"{name} has no revisions that name a step ({what} such as step512)")
    return named


def _branches(name: str, cache_dir: Path | None) -> list[str]:
    require_packages("reading a published model", "transformers")
    if not _HUB_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is neither a directory nor a name on the hub such as EleutherAI/pythia-70m")
    from huggingface_hub import HfApi, constants
    from huggingface_hub import errors as hub

    try:
        return [branch.name for branch in HfApi().list_repo_refs(name).branches]
    except hub.RepositoryNotFoundError:
        raise UsageError(f"the hub has no model {name!r} (a private one needs HF_TOKEN)") from None
    except (hub.HfHubHTTPError, hub.OfflineModeIsEnabled, OSError):
        refs = Path(cache_dir or constants.HF_HUB_CACHE) / hub_folder(name) / "refs"
        logger.info("the hub cannot be reached: the revisions of %s that are on this machine", name)
        return [path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file()]


def hub_folder(name: str) -> str:
    """The folder of a model within the hub's cache."""
    return f"models--{name.replace('/', '--')}"


def choose_revisions(asked: str, there: Sequence[str]) -> list[str]:
    """The revisions that ``A,B,...``, ``all`` or ``log12`` (twelve, evenly spaced in the log of the step) mean.

    Args:
        there: From :func:`list_revisions`.

    Raises:
        UsageError: One that is named is not there, or the number is not one.
    """
    if asked == "all":
        return list(there)
    if spaced := re.fullmatch(r"log(\d{1,4})", asked):
        count = int(spaced[1])
        if count < 2:
            raise UsageError(f"--revisions {asked}: a curve takes two revisions at least")
        if count >= len(there):
            return list(there)
        x = [math.log1p(progress_of(revision)["steps"]) for revision in there]
        wanted = [x[0] + (x[-1] - x[0]) * k / (count - 1) for k in range(count)]
        nearest = [int(np.argmin(np.abs(np.array(x) - at))) for at in wanted]
        return [there[i] for i in sorted(set(nearest))]
    names = [part.strip() for part in asked.split(",") if part.strip()]
    if not names:
        raise UsageError("--revisions is empty: give A,B,..., all, or log12")
    if missing := [name for name in names if name not in there]:
        raise UsageError(f"--revisions {missing[0]}: not a revision with a step; there are {', '.join(there[:12])}")
    return sorted(dict.fromkeys(names), key=list(there).index)


def _local(name: str, revision: str | None) -> Path | None:
    """The directory that is meant; None for a name on the hub."""
    if not is_directory(name):
        return None
    folder = model_folder(name)
    if revision is not None:
        if Path(revision).name != revision or revision == "..":
            raise UsageError(f"--revision {revision}: the name of a subfolder is meant, not a path")
        if not (folder / revision / CONFIG_FILE).is_file():
            there = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
            known = f"it has {', '.join(there[:12])}" if there else "it has none, so drop --revision"
            raise UsageError(f"{name} has no revision {revision!r} (a subfolder with a {CONFIG_FILE}): {known}")
        return folder / revision
    if not (folder / CONFIG_FILE).is_file():
        there = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
        cure = f"choose a revision of it: {', '.join(there[:12])}" if there else "give a directory that has one"
        raise UsageError(f"{name} has no {CONFIG_FILE}: {cure}")
    return folder


def _from_hub(name: str, revision: str | None, cache_dir: Path | None) -> Path:
    """The snapshot in the hub's cache, fetched unless a whole copy is there."""
    if not _HUB_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is neither a directory nor a name on the hub such as EleutherAI/pythia-70m")
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "allow_patterns": _WANTED,
                              "ignore_patterns": "*/*"}  # fmt: skip
    try:
        here = Path(snapshot_download(name, local_files_only=True, **wanted))
        _weights_of(here, name)
        if (here / CONFIG_FILE).is_file():
            return here
    except (hub.LocalEntryNotFoundError, WeightsError, ValueError):
        pass
    version = f"revision {revision} of {name}" if revision else name
    try:
        logger.info("fetching %s", version)
        return Path(snapshot_download(name, **wanted))
    except hub.GatedRepoError:
        raise UsageError(
            f"{name} is given only to those who accepted its terms: do so on its page, set HF_TOKEN"
        ) from None
    except hub.RevisionNotFoundError:
        raise UsageError(
            f"{name} has no revision {revision!r}: `emergence revisions {name}` names those it has"
        ) from None
    except hub.RepositoryNotFoundError:
        raise UsageError(f"the hub has no model {name!r} (a private one needs HF_TOKEN)") from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, hub.LocalEntryNotFoundError) and error.errno == 28:
            raise EmergenceError(f"no space left to fetch {version}") from None
        raise UsageError(
            f"{version}: there is no whole copy on this machine, and the hub cannot be reached: "
            "connect, or give a model's directory"
        ) from None
    except hub.HfHubHTTPError as error:
        raise UsageError(f"{version} could not be fetched: {error}") from None


def _weights_of(folder: Path, name: str) -> tuple[Path, ...]:
    """The safetensors files of a model.

    Raises:
        WeightsError: There are none, or one that the index names is missing.
    """
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).is_file():
        index = _read_json(folder / INDEX_FILE, "not an index of weights")
        shards = index.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
            raise WeightsError(f"{folder / INDEX_FILE}: damaged: it does not say which file holds which tensor")
        paths = tuple(folder / shard for shard in sorted(set(shards.values())))
        if missing := [path.name for path in paths if not path.is_file()]:
            raise WeightsError(f"{folder}: a part of its weights is missing ({missing[0]}): fetch it anew")
        return paths
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise WeightsError(
            f"{name} has its weights in {pickles[0]} alone, a pickle, which could run code when it is read: "
            f"take a revision with {SINGLE_FILE}, or convert it where you trust it"
        )
    raise WeightsError(f"{folder} holds no weights ({SINGLE_FILE})")


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"{otherwise}: {path} is missing")
    raw = parse_json(read_regular(path, WeightsError, _MOST_JSON).decode("utf-8", "replace"), str(path), WeightsError)
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return raw


def _refuse_odd_sizes(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse sizes that no model has, which the library would take hours or all memory to build."""
    for key, most in _SIZES.items():
        value = config.get(key)
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise UsageError(f"{path}: {key} is {str(value)[:40]!r}, not a whole number from 1 to {most:,}")


def _refuse_other_kinds(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what is no causal language model of this version of transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as causal

    kind = config.get("model_type")
    if config.get("is_encoder_decoder"):
        raise UsageError(f"{name} is an encoder-decoder ({kind}): give a decoder-only (causal) model")
    listed = config.get("architectures") or []
    if not isinstance(kind, str) or not isinstance(listed, list):
        raise UsageError(f"{name}: its {CONFIG_FILE} names no model_type, or its architectures are no list")
    architectures = [a for a in listed if isinstance(a, str)]
    known = set(causal.values())
    if kind not in causal:
        if config.get("auto_map"):
            raise UsageError(f"{name} needs code of its own, which this program never runs: give a model without it")
        raise UsageError(f"{name}: this version of transformers knows no causal language model of the type {kind!r}")
    if architectures and not known & set(architectures):
        if config.get("auto_map"):
            raise UsageError(f"{name} needs code of its own, which this program never runs: give a model without it")
        raise UsageError(f"{name} is no causal language model but {architectures[0]}: give a decoder-only model")
