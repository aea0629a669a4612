"""A published model in memory, checked: its weights, its encoder, its tokenizer; and its random twin."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from emergence.errors import EmergenceError, UsageError, WeightsError
from emergence.model.huggingface.encoder import HuggingFaceEncoder
from emergence.model.huggingface.families import context_length
from emergence.model.huggingface.files import ModelFiles, find_model
from emergence.model.huggingface.tokenizer import HuggingFaceTokenizer
from emergence.model.huggingface.toy_llm import ToyLLMFiles
from emergence.spec.memory import BESIDE_PUBLISHED_WEIGHTS, free_memory

logger = logging.getLogger(__name__)

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be read.

    Attributes:
        files: Where it came from.
        encoder: Its levels; ``encoder.model`` is the model itself.
        tokenizer: Its tokenizer.
        seed: Of the random twin; None for the published weights.
    """

    files: ModelFiles
    encoder: HuggingFaceEncoder
    tokenizer: HuggingFaceTokenizer
    seed: int | None = None

    @cached_property
    def n_parameters(self) -> int:
        """All weights, a tied one once."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    @cached_property
    def n_non_embedding(self) -> int:
        """Weights that are in neither the input nor the output embedding."""
        model = self.encoder.model
        tables = (model.get_input_embeddings(), model.get_output_embeddings())
        embeddings = {id(p): p.numel() for table in tables if table is not None for p in table.parameters()}
        return self.n_parameters - sum(embeddings.values())

    def release(self) -> None:
        """Give the memory of the weights back. Shapes, counts and facts stay; states can no longer be computed."""
        _ = self.n_parameters, self.n_non_embedding  # tied weights are two once they are moved
        self.encoder.to("meta")

    def facts(self) -> dict[str, Any]:
        """What a result records of it, in plain JSON types."""
        encoder = self.encoder
        return {
            "name": self.files.name,
            "revision": self.files.revision,
            "commit": self.files.commit,
            "type": encoder.model.config.model_type,
            "class": type(encoder.model).__name__,
            "dtype": str(encoder.model.dtype).removeprefix("torch."),
            "hidden_size": encoder.hidden_size,
            "n_layers": encoder.n_layers,
            "context": encoder.max_tokens,
            "parameters": {"total": self.n_parameters, "non_embedding": self.n_non_embedding},
            "random_seed": self.seed,
            "logits_off": encoder.logits_off,
            "tokenizer": self.tokenizer.facts(),
        }


def load_model(
    name: str,
    revision: str | None = None,
    *,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
    files: ModelFiles | None = None,
) -> LoadedModel:
    """Load a causal model with its published weights, and check that its levels give its logits.

    Args:
        name, revision, cache_dir: See :func:`~emergence.model.huggingface.files.find_model`.
        precision: ``fp32`` or ``bf16``, the type that its weights are held in.
        files: What ``find_model`` found, if it was asked before.

    Raises:
        UsageError: It cannot be read, or memory does not suffice. The message names the model and the reason.
        WeightsError: Its weights are missing, damaged, or not those of its configuration.
    """
    files = files or find_model(name, revision, cache_dir=cache_dir)
    dtype = _TYPES[precision]
    refuse_if_too_large(files, precision)
    from transformers import AutoModelForCausalLM

    if isinstance(files, ToyLLMFiles):
        with _quietly(), _in_one_line(files):
            model = AutoModelForCausalLM.from_config(_config_of(files), dtype=torch.float32)
            model.load_state_dict(files.tensors())
        return _wrapped(files, model.to(dtype), device, seed=None)
    with _quietly(), _in_one_line(files):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            files.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    model, notes = loaded
    odd = [*notes["missing_keys"], *(str(key[0]) for key in notes["mismatched_keys"])]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise WeightsError(f"{files.label}: its files hold no fitting weights for {sorted(odd)[0]}{more}")
    return _wrapped(files, model, device, seed=None)


def random_twin(
    name: str,
    revision: str | None = None,
    *,
    seed: int,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
    files: ModelFiles | None = None,
) -> LoadedModel:
    """The same architecture and tokenizer with weights drawn as the family draws them. Its files' weights are not read.

    Raises:
        UsageError: As :func:`load_model`.
    """
    files = files or find_model(name, revision, cache_dir=cache_dir)
    dtype = _TYPES[precision]
    refuse_if_too_large(files, precision)
    from transformers import AutoModelForCausalLM

    with _quietly(), _in_one_line(files), torch.random.fork_rng(devices=[]):
        config = _config_of(files)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=torch.float32).to(dtype)
    return _wrapped(files, model, device, seed=seed)


@dataclass(frozen=True)
class ModelSizes:
    """What a configuration tells of a model: L blocks, width D, and the longest sequence that it takes."""

    n_layers: int
    hidden_size: int
    max_tokens: int

    @property
    def n_levels(self) -> int:
        """L + 1."""
        return self.n_layers + 1


def sizes_of(files: ModelFiles) -> ModelSizes:
    """The sizes of a model that need not be loaded for them.

    Raises:
        UsageError: Its configuration cannot be read.
    """
    with _quietly(), _in_one_line(files):
        text = _config_of(files).get_text_config()
        return ModelSizes(int(text.num_hidden_layers), int(text.hidden_size), context_length(text))


def _config_of(files: ModelFiles) -> Any:
    """The configuration in transformers' form."""
    from transformers import AutoConfig

    if isinstance(files, ToyLLMFiles):
        return AutoConfig.for_model(**files.config)
    return AutoConfig.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)


def load_tokenizer(files: ModelFiles) -> HuggingFaceTokenizer:
    """The tokenizer alone.

    Raises:
        UsageError: It is missing, damaged or a slow one.
    """
    from transformers import AutoTokenizer

    if isinstance(files, ToyLLMFiles):
        with _quietly():
            return HuggingFaceTokenizer(files.tokenizer(), files.label)
    with _quietly():
        try:
            tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # the libraries below raise bare ones for damaged files
            raise UsageError(f"{files.label}: its tokenizer cannot be read: {_reason(error)}") from None
    return HuggingFaceTokenizer(tokenizer, files.label)


def refuse_if_too_large(files: ModelFiles, precision: str) -> None:
    """Refuse a model that memory cannot hold, before it is loaded.

    Raises:
        UsageError: With what it needs and what there is.
    """
    n_values, dtype = files.n_values, _TYPES[precision]
    need, free = n_values * dtype.itemsize + BESIDE_PUBLISHED_WEIGHTS, free_memory()
    if free is not None and need > free:
        cure = "a smaller one, a machine with more, or --dtype bf16" if dtype.itemsize > 2 else "a smaller one"
        raise UsageError(
            f"{files.label} needs about {need / 2**30:.1f} GiB of memory ({n_values:,} weights), and here are "
            f"{free / 2**30:.1f} GiB: take {cure}"
        )


def _wrapped(files: ModelFiles, model: Any, device: torch.device | str, seed: int | None) -> LoadedModel:
    tokenizer = load_tokenizer(files)
    rows = int(model.get_input_embeddings().weight.shape[0])
    if tokenizer.vocab_size > rows:
        raise UsageError(
            f"{files.label}: its tokenizer has {tokenizer.vocab_size:,} tokens, its embedding {rows:,} rows"
        )
    if tokenizer.largest_id >= rows:
        raise UsageError(
            f"{files.label}: its tokenizer has the id {tokenizer.largest_id:,}, its embedding {rows:,} rows"
        )
    model = model.to(device).eval().requires_grad_(False)
    with _in_one_line(files):
        encoder = HuggingFaceEncoder(model)
    return LoadedModel(files, encoder, tokenizer, seed)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's progress bars, notes and warnings: what matters is checked here."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


@contextlib.contextmanager
def _in_one_line(files: ModelFiles) -> Iterator[None]:
    try:
        yield
    except (MemoryError, EmergenceError):
        raise
    except Exception as error:  # the library trusts a configuration: any field of it may raise anything
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        raise UsageError(f"{files.label} cannot be loaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
