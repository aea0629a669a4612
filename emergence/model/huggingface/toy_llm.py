"""The published weights of the study that this program's experiment comes from (Griffiths and Musolesi 2026).

Its files are state dictionaries of tensors under the names that its guide documents, without a configuration beside
them. Its public code says what they are of: ``ToyLLM``, a causal pre-norm transformer with learned positions,
LayerNorm, biases and the exact GELU. That is what GPT-2 computes, so it is read as a ``GPT2LMHeadModel``. Heads are 64
wide at every size of the study, and its tokenizer is that of bert-base-uncased; neither is in the file.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.errors import UsageError, WeightsError
from emergence.files import open_regular
from emergence.model.huggingface.files import CONFIG_FILE, ModelFiles
from emergence.model.huggingface.tensors import group_of
from emergence.model.tensor_files import first_line, load_tensors
from emergence.spec.published import weights_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The trunk in a run's folder, in the study's words; another file of the folder is a revision.
TRUNK_FILE = "toy_llm_unified_pretrained.pth"
#: Width of a head at every size of the study.
HEAD_SIZE = 64
TOKENIZER = "google-bert/bert-base-uncased"
_SUFFIX = ".pth"
_VALUES_PER_TENSOR = 64
#: What may stand before the names, and what heads are called.
_PREFIX, _LANGUAGE_HEAD, _ANSWER_HEAD = "llm.", "lm_head.weight", "qa_outputs."
_LINEAR = (
    "attention.q_proj",
    "attention.k_proj",
    "attention.v_proj",
    "attention.out_proj",
    "ffn.linear1",
    "ffn.linear2",
)
_NORMS = ("norm1", "norm2")


@dataclass(frozen=True, eq=False)
class ToyLLMFiles(ModelFiles):
    """One ``.pth`` file of the study.

    Attributes:
        state: Its tensors by the names of ``ToyLLM``, with ``lm_head.weight`` if there is one; no other heads.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[str, str]:
        found: dict[str, Any] = {}
        for name, tensor in sorted(self.state.items()):
            digest = found.setdefault(group_of(name), hashlib.sha256())
            digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return {group: digest.hexdigest() for group, digest in found.items()}

    @cached_property
    def sketches(self) -> dict[str, npt.NDArray[np.float64]]:
        found: dict[str, list[npt.NDArray[np.float64]]] = {}
        for name, tensor in sorted(self.state.items()):
            places = np.unique(np.linspace(0, tensor.numel() - 1, _VALUES_PER_TENSOR).astype(np.int64))
            values = tensor.flatten()[torch.from_numpy(places)].double().numpy()
            found.setdefault(group_of(name), []).append(values)
        return {group: np.concatenate(values) for group, values in found.items()}

    @property
    def n_values(self) -> int:
        return sum(tensor.numel() for tensor in self.state.values())

    def tensors(self) -> dict[str, Tensor]:
        """The weights by the names of ``GPT2LMHeadModel``, float32."""
        return _as_gpt2({name: tensor.float() for name, tensor in self.state.items()}, self.config["n_layer"])

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of bert-base-uncased: ``tokenizer.json`` or ``vocab.txt`` beside the weights, or else of the hub.

        Raises:
            UsageError: It is not there, or has another number of tokens.
        """
        from transformers import BertTokenizerFast  # type: ignore[attr-defined]  # version 5 keeps the name of version 4

        beside = any((self.folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
        try:
            tokenizer = BertTokenizerFast.from_pretrained(self.folder if beside else TOKENIZER, local_files_only=beside)
        except Exception as error:  # the library raises bare ones for damaged files and without a connection
            raise UsageError(
                f"{self.label}: its tokenizer is missing or damaged: put vocab.txt or tokenizer.json of "
                f"bert-base-uncased beside it ({first_line(error)[:100]})"
            ) from None
        rows = self.config["vocab_size"]
        if len(tokenizer) != rows:
            raise UsageError(
                f"{self.label}: its embedding has {rows:,} rows, and its tokenizer {len(tokenizer):,} tokens"
            )
        return tokenizer


def find_toy_llm(name: str, revision: str | None) -> ToyLLMFiles | None:
    """The study's weights that are meant; None if another kind of model is.

    Args:
        name: A ``.pth`` file, or a folder with ``toy_llm_unified_pretrained.pth`` and no configuration.
        revision: Another ``.pth`` file of the folder, without its ending: ``pretrain_epoch_3``.

    Raises:
        UsageError: There is no such file.
        WeightsError: It holds anything but this study's tensors. The message says what is missing.
    """
    path = toy_llm_path(name, revision)
    if path is None:
        return None
    state = _read(path)
    return ToyLLMFiles(name, revision, path.parent, None, _configuration(state), (path,), state)


def toy_llm_path(name: str, revision: str | None = None) -> Path | None:
    """The file that is meant; None if another kind of model is. See :func:`find_toy_llm`."""
    if (path := weights_file(name)) is not None:
        if revision is not None:
            raise UsageError(f"{name} is one file: drop --revision, or give its folder")
        return path
    place = Path(name).expanduser()
    if not (place / TRUNK_FILE).is_file() or (place / CONFIG_FILE).is_file():
        return None
    if revision is None:
        return place / TRUNK_FILE
    if Path(revision).name != revision or not (place / f"{revision}{_SUFFIX}").is_file():
        there = ", ".join(sorted(path.stem for path in place.glob(f"*{_SUFFIX}"))[:12])
        raise UsageError(f"{name} has no revision {revision!r} (a file {revision}{_SUFFIX}): it has {there}")
    return place / f"{revision}{_SUFFIX}"


def _read(path: Path) -> dict[str, Tensor]:
    """The trunk's tensors, and the language model's head."""
    content = _tensors(path)
    prefixed = {name.removeprefix(_PREFIX): tensor for name, tensor in content.items()}
    state = {name: tensor for name, tensor in prefixed.items() if not name.startswith(_ANSWER_HEAD)}
    _refuse_other_shapes(path, state)
    if odd := next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None):
        raise WeightsError(f"{path}: {odd} holds numbers that are not finite")
    return state


def _tensors(path: Path) -> dict[str, Tensor]:
    """The content of a file that is a dictionary of tensors.

    Raises:
        WeightsError: It is anything else. Nothing of it has run.
    """
    try:
        with open_regular(path, WeightsError) as handle:
            _refuse_other_archives(path, handle)
            content = load_tensors(handle)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{path}: refused by the safe loader ({first_line(error)})") from None
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: not a dictionary of tensors but {type(content).__name__}")
    if content.get("format") == "emergence-weights":
        raise WeightsError(f"{path} is of a run of this program: emergence export RUN --to DIR makes a model of it")
    if "model_state_dict" in content:
        raise WeightsError(f"{path} is a checkpoint to resume from: give {TRUNK_FILE}")
    odd = [name for name, tensor in content.items() if not isinstance(name, str) or not isinstance(tensor, Tensor)]
    if odd:
        raise WeightsError(f"{path}: not a dictionary of tensors: {str(odd[0])[:100]!r} is none")
    whole = [
        name for name, tensor in content.items() if not tensor.is_floating_point() or tensor.layout != torch.strided
    ]
    if whole:
        raise WeightsError(f"{path}: {whole[0][:100]} is not of ordinary floating-point numbers")
    return dict(content)


def _refuse_other_archives(path: Path, handle: Any) -> None:
    """Refuse what is no zip file of tensors, or unfolds to far more than it is, before torch sees it."""
    if not zipfile.is_zipfile(handle):
        raise WeightsError(f"{path}: not a file that torch.save wrote (of PyTorch 1.6 or later)")
    with zipfile.ZipFile(handle) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 2 * handle.seek(0, 2) + 1_000_000:
        raise WeightsError(f"{path}: its parts are packed, which torch.save does not do")
    handle.seek(0)


def _refuse_other_shapes(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse what is not a ``ToyLLM``, naming what is missing."""
    what = f"{path}: no weights of the study's ToyLLM"
    for name, words in (("token_embedding.weight", "tokens"), ("position_embedding.weight", "positions")):
        if name not in state or state[name].dim() != 2:
            raise WeightsError(f"{what}: {name} (the embedding of {words}) is missing")
    wanted = _shapes(state)
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    for names, words in ((missing, "is missing"), (unknown, "is unknown")):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"{what}: {names[0][:100]} {words}{more}")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise WeightsError(f"{what}: {name} is {tuple(state[name].shape)}, not {shape}")
    width = state["token_embedding.weight"].shape[1]
    if width % HEAD_SIZE:
        raise WeightsError(
            f"{what}: its width {width} does not tell the number of heads, which are {HEAD_SIZE} wide there"
        )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The names and shapes that a ``ToyLLM`` with these embeddings and blocks has."""
    rows, width = state["token_embedding.weight"].shape
    wanted: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (rows, width),
        "position_embedding.weight": (state["position_embedding.weight"].shape[0], width),
    }
    blocks = [int(found[1]) for name in state if (found := re.match(r"layers\.(\d{1,3})\.", name))]
    for block in range(max(blocks, default=0) + 1):
        outer = {"ffn.linear1": (4 * width, width), "ffn.linear2": (width, 4 * width)}
        for name in _LINEAR:
            shape: tuple[int, ...] = outer.get(name, (width, width))
            wanted |= {f"layers.{block}.{name}.weight": shape, f"layers.{block}.{name}.bias": shape[:1]}
        for name in _NORMS:
            wanted |= dict.fromkeys((f"layers.{block}.{name}.weight", f"layers.{block}.{name}.bias"), (width,))
    wanted |= {"norm_out.weight": (width,), "norm_out.bias": (width,)}
    return wanted | ({_LANGUAGE_HEAD: (rows, width)} if _LANGUAGE_HEAD in state else {})


def _configuration(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``config.json`` of the same model as a GPT-2."""
    rows, width = state["token_embedding.weight"].shape
    head = state.get(_LANGUAGE_HEAD)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": rows,
        "n_embd": width,
        "n_inner": 4 * width,
        "n_layer": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers.")),
        "n_head": width // HEAD_SIZE,
        "n_positions": state["position_embedding.weight"].shape[0],
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": head is None or torch.equal(head, state["token_embedding.weight"]),
    }


def _as_gpt2(state: Mapping[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """GPT-2 keeps queries, keys and values in one matrix, and matrices with inputs as rows."""
    names = {"token_embedding": "wte", "position_embedding": "wpe"}
    tensors = {f"transformer.{theirs}.weight": state[f"{ours}.weight"] for ours, theirs in names.items()}
    tensors |= {f"transformer.ln_f.{part}": state[f"norm_out.{part}"] for part in ("weight", "bias")}
    for block in range(n_layers):
        ours, theirs = f"layers.{block}.", f"transformer.h.{block}."
        whole = [f"{ours}attention.{name}_proj" for name in "qkv"]
        tensors[f"{theirs}attn.c_attn.weight"] = torch.cat([state[f"{name}.weight"].T for name in whole], dim=1)
        tensors[f"{theirs}attn.c_attn.bias"] = torch.cat([state[f"{name}.bias"] for name in whole])
        linear = {"attention.out_proj": "attn.c_proj", "ffn.linear1": "mlp.c_fc", "ffn.linear2": "mlp.c_proj"}
        for own, name in linear.items():
            tensors[f"{theirs}{name}.weight"] = state[f"{ours}{own}.weight"].T
            tensors[f"{theirs}{name}.bias"] = state[f"{ours}{own}.bias"]
        for own, name in {"norm1": "ln_1", "norm2": "ln_2"}.items():
            tensors |= {f"{theirs}{name}.{part}": state[f"{ours}{own}.{part}"] for part in ("weight", "bias")}
    tensors["lm_head.weight"] = state.get(_LANGUAGE_HEAD, state["token_embedding.weight"])
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
