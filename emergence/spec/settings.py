"""All that a configuration can set: one frozen dataclass a section, every field with its help and its limits.

The defaults are the ``modern`` recipe. :mod:`emergence.spec.config` reads and checks values. Standard library only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from emergence.plain import plain


def _setting(help: str, default: Any = ..., *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with its documentation and its inclusive limits."""
    metadata = {"help": help, "low": low, "high": high}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The trunk: a causal, pre-norm decoder with tied embeddings."""

    n_layers: int = _setting("transformer blocks", low=1, high=200)
    hidden_size: int = _setting("width of the residual stream", low=8, high=16384)
    n_heads: int = _setting("attention heads; divides hidden_size into even head sizes", low=1, high=256)
    mlp_ratio: int = _setting("hidden size of the MLP over hidden_size", 4, low=1, high=16)
    vocab_size: int = _setting(
        "most tokens the byte-level BPE may have (token ids fit uint16)", 16384, low=300, high=65535
    )
    sequence_length: int = _setting("tokens per packed pretraining sequence", 512, low=16, high=32768)
    positions: Literal["rotary", "learned"] = _setting("position information", "rotary")
    norm: Literal["rmsnorm", "layernorm"] = _setting("normalisation before each sublayer", "rmsnorm")
    activation: Literal["relu2", "gelu"] = _setting("MLP activation", "relu2")
    qk_norm: bool = _setting("normalise queries and keys per head", True)
    init: Literal["zero_residual", "normal"] = _setting(
        "residual outputs start at zero, or ordinary scaled normal (random baselines always use normal)",
        "zero_residual",
    )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Next-token pretraining on packed text."""

    samples_per_epoch: int = _setting("packed sequences per epoch (the 200k of TinyQA_spe200k)", low=1, high=10**9)
    epochs: int = _setting("epochs", 1, low=1, high=10000)
    max_passes: float = _setting(
        "most passes over the text there is; caps epochs x samples_per_epoch", 1.0, low=0.001, high=10**6
    )
    batch_size: int = _setting("sequences per optimiser step, over all devices", low=1, high=2**16)
    micro_batch_size: int = _setting(
        "sequences per forward pass (0: the largest that fits, on a GPU; batch_size on CPU)", 0, low=0, high=2**16
    )
    optimizer: Literal["muon", "adamw"] = _setting(
        "Muon on the trunk's matrices with AdamW on the rest, or AdamW alone", "muon"
    )
    muon_lr: float = _setting("Muon's peak learning rate", 0.02, low=0.0, high=1e6)
    muon_momentum: float = _setting("Muon's momentum", 0.95, low=0.0, high=1.0)
    muon_momentum_warmup: int = _setting(
        "updates over which Muon's momentum rises to muon_momentum, from 0.85 or what is less (0: none)",
        0,
        low=0,
        high=10**9,
    )
    adamw_lr: float = _setting("AdamW's peak learning rate", 6e-3, low=0.0, high=1e6)
    adamw_beta1: float = _setting("share of AdamW's old mean gradient that is kept", 0.9, low=0.0, high=0.999)
    weight_decay: float = _setting("decoupled weight decay on matrices", 0.0, low=0.0, high=1e6)
    grad_clip: float = _setting("global gradient norm limit (0: none)", 1.0, low=0.0, high=1e9)
    schedule: Literal["wsd", "cosine"] = _setting("warm-up, stable, linear decay; or warm-up and cosine", "wsd")
    warmup_fraction: float = _setting("share of the steps that warm up", 0.02, low=0.0, high=1.0)
    decay_fraction: float = _setting("share of the steps that decay (wsd)", 0.4, low=0.0, high=1.0)
    initial_context: int = _setting(
        "context window of the first updates, tokens; sequences are cut into windows (0: whole from the start)",
        0,
        low=0,
        high=32768,
    )
    initial_context_fraction: float = _setting("share of the updates with that window", 0.6, low=0.0, high=1.0)
    evaluations_per_epoch: int = _setting("validation losses per epoch", 20, low=1, high=10**6)
    validation_tokens: int = _setting(
        "most validation tokens scored at each evaluation during training", 65_536, low=64, high=10**9
    )
    patience: int = _setting(
        "stop after this many evaluations without a better validation loss (0: never)", 0, low=0, high=10**6
    )
    step_snapshots: int = _setting("log-spaced weight snapshots within pretraining (0: none)", 10, low=0, high=200)
    log_every_steps: int = _setting("steps between history lines", 10, low=1, high=10**9)
    checkpoint_every_steps: int = _setting("steps between resumable checkpoints", 200, low=1, high=10**9)
    on_nan: Literal["stop", "rewind"] = _setting(
        "at a number that is not finite, in finetuning too: stop, or rewind to a checkpoint and halve the rate", "stop"
    )
    loss_chunk_rows: int = _setting(
        "rows of the vocabulary head computed at a time, at most; a GPU takes 16 times this",
        512,
        low=16,
        high=2**20,
    )
    precision: Literal["auto", "fp32", "bf16"] = _setting(
        "auto: bf16 autocast where the hardware multiplies faster in bf16, else fp32", "auto"
    )
    compile: Literal["auto", "on", "off"] = _setting(
        "torch.compile the trunk in pretraining: on, off, or in long runs (auto); off also replays no CUDA graphs",
        "auto",
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Training trunk and span head together on QA-SRL questions."""

    epochs: int = _setting("most epochs; the learning rate reaches zero at the last", 3, low=1, high=10000)
    batch_size: int = _setting("questions per optimiser step", 32, low=1, high=2**16)
    min_steps_per_epoch: int = _setting(
        "an epoch over few questions repeats them to make this many steps", 40, low=1, high=10**7
    )
    lr: float = _setting("AdamW's peak learning rate", 1e-3, low=0.0, high=1e6)
    head_lr: float = _setting("the span head's peak learning rate", 1e-3, low=0.0, high=1e6)
    weight_decay: float = _setting("decoupled weight decay on matrices", 0.01, low=0.0, high=1e6)
    dropout: float = _setting("dropout on what attention and MLP add to the residual stream", 0.0, low=0.0, high=0.9)
    grad_clip: float = _setting("global gradient norm limit (0: none)", 1.0, low=0.0, high=1e9)
    warmup_fraction: float = _setting(
        "share of the steps that warm up; the rest decays linearly to zero", 0.06, low=0.0, high=1.0
    )
    patience: int = _setting(
        "stop after this many epochs without a better validation F1 (0: never)", 2, low=0, high=10**6
    )
    train_gold: Literal["first", "marginal"] = _setting(
        "train on the sum over all golds, or on the first alone", "marginal"
    )
    search: Literal["on", "off"] = _setting(
        "first look on validation for learning rate and embedding scale, at the cost of two finetunings at most", "on"
    )
    marks: Literal["auto", "text", "special"] = _setting(
        "mark separator and predicate by tokens of the text or by tokens of their own; auto: of the text if frozen",
        "auto",
    )
    max_answer_words: int = _setting(
        "longest span decoded (0: the 99.5th percentile of the training answers)", 0, low=0, high=10**4
    )
    checkpoint_every_steps: int = _setting(
        "steps between resumable checkpoints within an epoch", 500, low=1, high=10**9
    )
    log_every_steps: int = _setting("steps between history lines", 10, low=1, high=10**9)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probes on the cached features of a frozen trunk (docs/methods.md#probes)."""

    families: tuple[Literal["linear", "bilinear", "mlp"], ...] = _setting(
        "probes fitted at every layer; linear is the headline", ("linear", "bilinear", "mlp")
    )
    ridges: tuple[float, ...] = _setting(
        "ridge penalties of the linear head, chosen on validation",
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        low=0.0,
        high=1e12,
    )
    max_iterations: int = _setting("most L-BFGS iterations of the linear head", 2_000, low=1, high=10**6)
    bilinear_rank: int = _setting("rank of the question-to-token probe", 32, low=1, high=4096)
    epochs: int = _setting(
        "most epochs of the bilinear and the mlp probe; patience ends them before", 60, low=1, high=10**4
    )
    batch_size: int = _setting("questions per step of the bilinear and the mlp probe", 128, low=1, high=2**16)
    lr: float = _setting("AdamW's peak learning rate of the bilinear and the mlp probe", 3e-3, low=0.0, high=1e6)
    weight_decay: float = _setting("decoupled weight decay of the bilinear and the mlp probe", 0.01, low=0.0, high=1e6)
    patience: int = _setting("stop after this many epochs without a better validation loss", 5, low=1, high=10**6)
    train_gold: Literal["first", "marginal"] = _setting(
        "train on the sum over all golds, or on the first alone: as finetune.train_gold", "marginal"
    )
    conditional: bool = _setting("measure what the states add to words and positions (conditional probing)", True)
    nested: bool = _setting("on top of words and positions the bilinear probe starts from the linear one", True)
    validity: bool = _setting("measure selectivity and description length of every family at its best layer", True)
    mdl_epochs: int = _setting(
        "epochs over each prefix of the online code (bilinear and mlp probe)", 10, low=1, high=10**4
    )
    layers: str = _setting("levels of states to probe: all, or numbers such as 0,10,20 (0: embeddings)", "all")
    weights: Literal["fp32", "bf16"] = _setting("type that a published model's weights are held in", "fp32")
    features: Literal["bf16", "fp32"] = _setting("type that a published model's states are kept in on disk", "bf16")
    cache_gigabytes: float = _setting(
        "memory for cached features; more layers than fit take another pass", 4.0, low=0.001, high=10**4
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How scores get their intervals."""

    bootstrap_draws: int = _setting("resamples of the clusters", 10_000, low=100, high=10**6)
    cluster: Literal["sentence", "document"] = _setting("what is resampled whole", "sentence")
    minimal_pairs: int = _setting(
        "role-crossed minimal pairs of the micro-world; other questions give those a rule finds (0: none)",
        400,
        low=0,
        high=100_000,
    )
    alpha: float = _setting("1 - confidence level of every interval", 0.05, low=0.0001, high=0.5)


@dataclass(frozen=True, kw_only=True)
class MicroworldSettings:
    """Size and difficulty of the built-in, offline data (``--data microworld``)."""

    text_documents: int = _setting("documents of pretraining text", 20_000, low=10, high=10**7)
    train_documents: int = _setting("documents with training questions", 600, low=1, high=10**6)
    validation_documents: int = _setting("documents with validation questions", 120, low=1, high=10**6)
    test_documents: int = _setting("documents with test questions", 120, low=1, high=10**6)
    difficulty: float = _setting("0: simple clauses only; 1: every construction", 1.0, low=0.0, high=1.0)
    seed: int = _setting("seed of the world, apart from the experiment's seed", 0, low=0, high=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """What the run asks of Modal."""

    gpu: str = _setting("Modal GPU type, optionally with a count (A10G, L40S, A100-80GB, H100:2)", "A10G")
    cpu: float = _setting("CPU cores of the container", 4.0, low=0.125, high=64)
    memory_gigabytes: float = _setting("memory of the container", 24.0, low=0.5, high=512)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One resolved configuration file."""

    name: str
    run_prefix: str
    recipe: Literal["modern", "gpt2"]
    model: ModelConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    probe: ProbeConfig
    evaluate: EvaluateConfig
    microworld: MicroworldSettings
    compute: ComputeConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the inverse of :func:`config_from_dict`."""
        return {
            name: {key: list(value) if isinstance(value, list) else value for key, value in of.items()}
            if isinstance(of, dict) else of
            for name, of in self._stored.items()
        }  # fmt: skip

    @functools.cached_property  # a report of hundreds of runs asks each of them several times
    def _stored(self) -> dict[str, Any]:
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "probe": ProbeConfig,
    "evaluate": EvaluateConfig,
    "microworld": MicroworldSettings,
    "compute": ComputeConfig,
}

#: What a recipe changes against the field defaults (which are the modern recipe).
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "modern": {},
    "gpt2": {
        "model": {
            "positions": "learned",
            "norm": "layernorm",
            "activation": "gelu",
            "qk_norm": False,
            "init": "normal",
        },
        "pretrain": {
            "optimizer": "adamw",
            "adamw_lr": 1e-3,
            "adamw_beta1": 0.9,
            "muon_momentum_warmup": 0,
            "initial_context": 0,
            "weight_decay": 0.1,
            "schedule": "cosine",
        },
    },
}
