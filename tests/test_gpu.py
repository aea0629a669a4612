"""A GPU computes what the CPU computes, goes on from a kill to the same bits, and serves every command.

Without a GPU these tests run on a pretended one (tests/pretend_gpu.py), as on this project's own CI. There they show
that what a GPU needs is moved there and back, and nothing else. They need no Modal client, so they run in any image
with torch.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import shutil
import weakref
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from emergence.answering.features import LayerFeatures
from emergence.answering.probe_data import ProbeData
from emergence.answering.probe_fitting import SpanObjective
from emergence.data.stream import TokenStream
from emergence.errors import EmergenceError
from emergence.experiment.run import run_experiment
from emergence.experiment.store import RunDirectory, RunStore
from emergence.measures.spans import GoldSpans
from emergence.model import Trunk, build_trunk, linear_cross_entropy
from emergence.model.dropout import ResidualDropout
from emergence.model.losses import token_losses
from emergence.spec.config import ModelConfig, PretrainConfig
from emergence.training import execution
from emergence.training.checkpoint import Checkpointer, load_weights
from emergence.training.context import Context
from emergence.training.cuda_graphs import WARM_UP_CALLS, Replayed
from emergence.training.execution import Gradients
from emergence.training.optim import build_optimizers
from emergence.training.pretrain import pretrain
from emergence.training.recording import StopRequested
from tests.pretend_gpu import pretend_gpu
from tests.small_runs import run_small, small_spec, trunk_flags

pytestmark = [
    pytest.mark.timeout(300),
    # Deterministic kernels are asked for where there are any, and torch warns where there are none.
    pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning", "ignore::DeprecationWarning"),
]

FP32 = ("pretrain.precision=fp32", "pretrain.compile=off")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


IS_REAL = torch.cuda.is_available()
#: Of tests that take seconds on a pretended GPU.
LONG = pytest.mark.timeout(300) if IS_REAL else pytest.mark.slow


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    """The GPU. A test that leaves it unused shows nothing."""
    if IS_REAL:
        yield
        return
    with pretend_gpu() as operations:
        yield
    assert operations.ran > 0


# The arithmetic ----------------------------------------------------------------------------------------------------


def _trunk(**settings: Any) -> Trunk:
    config = ModelConfig(n_layers=2, hidden_size=32, n_heads=4, sequence_length=64, vocab_size=320, **settings)
    return build_trunk(config, 320, seed=3, init="normal")


@pytest.mark.parametrize(
    "settings", [{}, {"positions": "learned", "norm": "layernorm", "activation": "gelu", "qk_norm": False}]
)
def test_states_losses_and_gradients_are_the_cpus(settings: dict[str, Any]) -> None:
    ours = _trunk(**settings)
    theirs = copy.deepcopy(ours).to(CUDA)
    ids = torch.randint(320, (3, 65), generator=torch.Generator().manual_seed(1))
    for trunk, device in ((ours, CPU), (theirs, CUDA)):
        execution.step_loss(trunk, trunk, ids.to(device), 50, "fp32").backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        difference = (a.grad - b.grad.cpu()).norm() / a.grad.norm().clamp_min(1e-12)
        assert difference < 1e-4, name
    for here, there in zip(ours.hidden_states(ids[:, 1:]), theirs.hidden_states(ids[:, 1:].to(CUDA)), strict=True):
        assert torch.allclose(here, there.cpu(), atol=1e-4)


def test_the_fused_loss_under_autocast_is_near_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 64, generator=generator), torch.randn(500, 64, generator=generator) * 0.1
    targets = torch.randint(500, (300,), generator=generator)
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    with torch.autocast("cuda", torch.bfloat16):
        fused = linear_cross_entropy(hidden.to(CUDA).requires_grad_(), weight.to(CUDA), targets.to(CUDA), 128)
    single = token_losses(hidden.to(CUDA), weight.to(CUDA), targets.to(CUDA), 128)
    assert fused.item() == pytest.approx(plain.item(), rel=5e-3)
    assert single.mean().item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=LONG) if IS_REAL else True])
def test_the_fused_loss_is_the_plain_one(compiled: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 64, generator=generator), torch.randn(500, 64, generator=generator)
    targets = (hidden @ weight.T).argmax(1)  # many are certain
    plain, fused = (
        [part.detach().clone().to(device).requires_grad_() for part in (hidden, weight)] for device in (CPU, CUDA)
    )
    expected = torch.nn.functional.cross_entropy(plain[0] @ plain[1].T, targets)
    found = linear_cross_entropy(*fused, targets.to(CUDA), 16, compiled)
    for loss in (expected, found):
        loss.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for ours, theirs in zip(fused, plain, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad.cpu(), theirs.grad, rtol=1e-3, atol=1e-6)


def test_dropout_masks_depend_on_the_step_alone() -> None:
    trunk = _trunk().to(CUDA).train()
    dropout = ResidualDropout(trunk, 0.3, seed=2)
    ids = torch.arange(40, device=CUDA)[None]
    seen = []
    for step in (1, 2, 1):
        dropout.start_step(step)
        seen.append(trunk(ids).detach())
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


_PRETRAIN = PretrainConfig(samples_per_epoch=1, batch_size=9)


@pytest.mark.parametrize("replayed", [False, True])
def test_gradients_have_the_same_bits_every_time(replayed: bool) -> None:
    """Attention over several blocks of tokens adds up in any order, unless it is told not to."""
    config = ModelConfig(n_layers=2, hidden_size=128, n_heads=4, sequence_length=512 if IS_REAL else 16, vocab_size=320)
    trunk = build_trunk(config, 320, seed=3, init="normal").to(CUDA)
    ids = torch.randint(320, (8, config.sequence_length + 1), generator=torch.Generator().manual_seed(1))
    gradients = Gradients(trunk, trunk, _PRETRAIN, 8, Context(device=CUDA, precision="bf16"), replayed=replayed)
    found = []
    for _ in range(8):
        result = gradients(ids, of=8).clone()
        found.append([result, *(weight.grad.clone() for weight in trunk.parameters() if weight.grad is not None)])
    assert len(found[0]) == 1 + len(list(trunk.parameters()))
    if replayed:
        with pytest.raises(ValueError, match="8 of 9 sequences"):
            gradients(ids, of=9)
    assert all(torch.equal(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))


def test_replayed_updates_are_the_same_and_go_on_from_a_checkpoint() -> None:
    losses: dict[bool, list[list[float]]] = {}
    weights: dict[bool, list[torch.Tensor]] = {}
    for replayed in (False, True):
        trunk, config = _trunk().to(CUDA), PretrainConfig(samples_per_epoch=1, batch_size=3, weight_decay=0.1)
        optimizers = build_optimizers(trunk, config, "bf16")
        gradients = Gradients(trunk, trunk, config, 3, Context(device=CUDA, precision="bf16"), replayed=replayed)
        if replayed:
            optimizers.replay()
        losses[replayed] = []
        for step in range(14):
            ids = torch.randint(320, (3, 65), generator=torch.Generator().manual_seed(step))
            losses[replayed].append(gradients(ids, of=3).tolist())
            optimizers.set_factor(1 / (1 + step))
            optimizers.step()
            optimizers.zero_grad()
            if step == 5:
                saved = copy.deepcopy({"trunk": trunk.state_dict(), "optimizers": optimizers.state_dict()})
            if step == 7:  # as after a number that is not finite
                trunk.load_state_dict(saved["trunk"])
                optimizers.load_state_dict(copy.deepcopy(saved["optimizers"]))
        weights[replayed] = [weight.detach().cpu() for weight in trunk.parameters()]
    assert losses[True] == losses[False] and len({loss for loss, _ in losses[True]}) == 14
    assert all(torch.equal(a, b) for a, b in zip(weights[True], weights[False], strict=True))


def test_no_two_graphs_share_a_stream() -> None:
    """PyTorch would free the workspace of one with the other (pytorch/pytorch#193402)."""
    sums = [torch.zeros(2, device=CUDA) for _ in range(2)]
    graphs = [Replayed(), Replayed()]
    for calls in range(1, 8):
        for graph, one in zip(graphs, sums, strict=True):
            graph(lambda one=one: one.add_(1))  # type: ignore[misc]
            assert one.tolist() == [calls, calls]
    assert graphs[0]._stream != graphs[1]._stream
    if not IS_REAL:
        assert [graph._graph.stream for graph in graphs] == [graph._stream for graph in graphs]  # type: ignore[union-attr]


def test_an_update_whose_momentum_warms_up_is_not_replayed() -> None:
    trunk = _trunk().to(CUDA)
    before = {}
    for replayed in (False, True):
        other = copy.deepcopy(trunk)
        config = PretrainConfig(samples_per_epoch=1, batch_size=3, muon_momentum_warmup=9)
        optimizers = build_optimizers(other, config, "bf16")
        if replayed:
            optimizers.replay()
        for step in range(8):
            for number, weight in enumerate(other.parameters()):
                generator = torch.Generator().manual_seed(100 * step + number)
                weight.grad = torch.randn(weight.shape, generator=generator).to(CUDA)
            optimizers.step()
        before[replayed] = [weight.detach().cpu() for weight in other.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before[False], before[True], strict=True))


def test_graphs_go_with_what_they_are_of() -> None:
    """Their memory is that of a pass, which finetuning needs next."""
    trunk, config = _trunk().to(CUDA), PretrainConfig(samples_per_epoch=1, batch_size=3)
    gradients = Gradients(trunk, trunk, config, 3, Context(device=CUDA, precision="fp32"), replayed=True)
    optimizers = build_optimizers(trunk, config, "fp32")
    optimizers.replay()
    for _ in range(WARM_UP_CALLS + 2):
        gradients(torch.zeros(3, 65, dtype=torch.int64), of=3)
        optimizers.step()
        optimizers.zero_grad()
    assert gradients._replayed is not None and optimizers._replayed is not None
    graphs = [weakref.ref(one._graph) for one in (gradients._replayed, optimizers._replayed)]  # type: ignore[arg-type]
    assert None not in [graph() for graph in graphs]
    gc.disable()
    try:
        del gradients, optimizers
        assert [graph() for graph in graphs] == [None, None]
    finally:
        gc.enable()


def test_a_graph_takes_optimisers_that_can_be_captured() -> None:
    """PyTorch refuses others in a capture, on a real GPU alone."""
    optimizers = build_optimizers(_trunk().to(CUDA), _PRETRAIN, "bf16")._optimizers
    groups = [group for one in optimizers for group in one.param_groups]
    assert [group["capturable"] for group in groups if "capturable" in group] == [True, True]
    assert all(group["lr"].device.type == "cuda" for group in groups)
    assert torch.zeros(1, device=CUDA).add_(1).item() == 1


def test_a_trunk_that_moves_takes_its_angles_along() -> None:
    trunk, ids = _trunk(), torch.zeros(1, 5, dtype=torch.int64)
    here = trunk(ids)
    assert torch.allclose(trunk.to(CUDA)(ids.to(CUDA)).cpu(), here, atol=1e-4)


@pytest.mark.parametrize("window", [0, 16])
def test_small_updates_of_pretraining_are_replayed(folder: Path, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    replays: list[object] = []
    real = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), real(graph))[1])
    stream = TokenStream.from_tokens(np.random.default_rng(0).integers(4, 300, 4000), n_bytes=12_000)
    results = {}
    for setting in ("auto", "off"):
        trunk = _trunk()
        config = PretrainConfig(
            samples_per_epoch=24, batch_size=2, epochs=1, compile=setting, step_snapshots=0, checkpoint_every_steps=7,
            evaluations_per_epoch=1, validation_tokens=256, initial_context=window, initial_context_fraction=0.5,
        )  # fmt: skip
        kept = Checkpointer(folder / f"replayed-{window}-{setting}")
        context = Context(device=CUDA, precision="bf16", checkpointer=kept)
        pretrain(trunk, stream, stream, config, context, seed=0, save_snapshot=lambda *_: None)
        results[setting] = [weight.detach().cpu() for weight in trunk.parameters()]
        if setting == "auto":
            parts = 2 if window else 1  # windows and whole sequences have graphs of their own
            assert len(set(map(id, replays))) == 2 * parts
            assert len(replays) == 2 * (12 - parts * WARM_UP_CALLS)
            replays.clear()
    assert not replays
    assert all(torch.equal(a, b) for a, b in zip(results["auto"], results["off"], strict=True))


def test_a_checkpoint_of_optimisers_is_alike_on_every_device() -> None:
    states = {}
    for device in (CPU, CUDA):
        trunk = _trunk().to(device)
        optimizers = build_optimizers(trunk, _PRETRAIN, "bf16")
        for weight in trunk.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizers.set_factor(0.5)
        optimizers.step()
        states[device.type] = [state["param_groups"] for state in optimizers.state_dict()]
    assert states["cpu"] == [
        [{**group, "lr": pytest.approx(group["lr"])} for group in groups] for groups in states["cuda"]
    ]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = execution.run_once

    def run_once(forward: Any, trunk: Trunk, size: int, *rest: Any) -> None:
        tried.append(size)
        if size > 2:
            torch.empty(1 << 50, dtype=torch.uint8, device=CUDA)  # more than any GPU has
        real(forward, trunk, size, *rest)

    monkeypatch.setattr(execution, "run_once", run_once)
    context = Context(device=CUDA)
    assert execution.choose_micro_batch(_trunk().to(CUDA), _PRETRAIN, 9, context) == 2
    assert tried == [9, 5, 3, 2]
    monkeypatch.setattr(execution, "run_once", lambda *_: torch.empty(1 << 50, dtype=torch.uint8, device=CUDA))
    with pytest.raises(EmergenceError, match="does not fit the GPU"):
        execution.choose_micro_batch(_trunk().to(CUDA), _PRETRAIN, 4, context)


# Runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("gpu")
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def of_cpu(folder: Path) -> RunDirectory:
    """A finished run in float32, made on the CPU."""
    with mock.patch("torch.cuda.is_available", return_value=False):
        return run_small(folder / "cpu", *FP32, cache=folder / "cache")[0]


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of nested JSON, but those that tell time, sizes or the machine."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not any(
                word in key for word in ("second", "bytes", "created", "version", "machine", "device", "memory")
            ):
                yield from _numbers(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{place}[{number}]")
    elif isinstance(value, float) and math.isfinite(value):
        yield place, value


def _held_out(run: RunDirectory) -> float:
    return float(json.loads((run.path / "finetune_stats.json").read_text())["pretraining"]["validation_loss"])


@pytest.mark.parametrize(
    "extra",
    [pytest.param(FP32, marks=LONG), ("pretrain.compile=off",), pytest.param(("pretrain.compile=on",), marks=LONG)],
)
def test_pretraining_ends_near_the_cpus(
    of_cpu: RunDirectory, folder: Path, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums are in another order on a GPU, and most settings in bf16, so the weights are near and not equal."""
    # The compiler's cache is made of pickles, and no test may read one.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
    run, result = run_small(folder / "-".join(extra), *extra, cache=folder / "cache")
    assert _held_out(run) == pytest.approx(_held_out(of_cpu), rel=0.03)
    f1 = result.estimate("test", "f1_tokens")
    assert f1 is not None and math.isfinite(f1.point)


@LONG
@pytest.mark.parametrize("frozen", [False, True])
def test_from_the_same_trunk_the_answers_are_the_cpus(of_cpu: RunDirectory, folder: Path, frozen: bool) -> None:
    kwargs = {"freeze_llm": frozen, **trunk_flags(of_cpu)}
    root = folder / f"both-{frozen}"
    shutil.copytree(of_cpu.path, root / of_cpu.run_id)
    found = {}
    for device in ("cuda", "cpu"):
        spec = small_spec(*FP32, **kwargs)
        with mock.patch("torch.cuda.is_available", return_value=device == "cuda"):
            result = run_experiment(spec, RunStore(root), cache_dir=folder / "cache", fresh=device == "cpu")
        assert result is not None and result.run_id is not None
        f1 = result.estimate("test", "f1_tokens")
        assert f1 is not None
        found[device] = f1.point
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.02)


@LONG
@pytest.mark.parametrize("extra", [("pretrain.compile=off",), FP32])
def test_stopped_anywhere_it_ends_in_the_same_bits(folder: Path, extra: tuple[str, ...]) -> None:
    name = "stop-" + "-".join(extra).replace("=", "_").replace(".", "_")
    whole, _ = run_small(folder / name / "whole", *extra, cache=folder / "cache")
    store = RunStore(folder / name / "cut")
    spec = small_spec(*extra)
    begun: list[RunDirectory] = []
    for stop_after in (4, 9, 12, 3):
        asked = 0

        def should_stop(limit: int = stop_after) -> bool:
            nonlocal asked
            asked += 1
            return asked > limit

        try:
            run_experiment(
                spec, store, cache_dir=folder / "cache", should_stop=should_stop,
                on_open=lambda run, what: begun.append(run),
            )  # fmt: skip
        except StopRequested:
            continue
        break
    result = run_experiment(spec, store, cache_dir=folder / "cache")
    assert result is not None and len(begun) > 1
    cut = store.open(str(result.run_id))
    for file in ("toy_llm_unified_pretrained.pth", "toy_llm_qasrl_finetuned.pth"):
        a, b = (load_weights(run.path / file).state_dict for run in (whole, cut))
        assert a.keys() == b.keys()
        assert not [name for name, tensor in a.items() if not torch.equal(tensor, b[name])], file
    assert (whole.path / "predictions.jsonl").read_bytes() == (cut.path / "predictions.jsonl").read_bytes()


NEEDS_PEFT = pytest.mark.skipif(find_spec("peft") is None, reason="LoRA is of peft")


@LONG
@pytest.mark.parametrize("adapter", [pytest.param("lora-2", marks=NEEDS_PEFT), "prefix-16"])
def test_adapters(of_cpu: RunDirectory, folder: Path, adapter: str) -> None:
    root = folder / adapter
    shutil.copytree(of_cpu.path, root / of_cpu.run_id)
    _, result = run_small(root, *FP32, cache=folder / "cache", adapter=adapter, **trunk_flags(of_cpu))
    f1 = result.estimate("test", "f1_tokens")
    assert f1 is not None and math.isfinite(f1.point)


def test_the_span_objective_is_the_cpus() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, size=50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    words = torch.from_numpy(rng.standard_normal((offsets[-1], 12)).astype(np.float32))
    questions = torch.zeros(50, 24)
    starts = rng.integers(0, lengths)
    golds = GoldSpans.from_lists([[(start, start), (0, 1)] for start in starts.tolist()])
    offset = torch.from_numpy(rng.standard_normal((offsets[-1], 2)).astype(np.float32))
    flat = rng.standard_normal(26) * 0.1
    objectives = [
        SpanObjective(ProbeData(LayerFeatures(words.to(d), questions.to(d), offsets), golds, offset.to(d)))
        for d in (CPU, CUDA)
    ]
    values = [objective(flat, 0.1) for objective in objectives]
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-5)
    assert np.allclose(values[0][1], values[1][1], atol=1e-5)
    optima = [objective.minimum(objective.start, 0.1, 200).fun for objective in objectives]
    assert optima[0] == pytest.approx(optima[1], abs=1e-5)


# Commands ----------------------------------------------------------------------------------------------------------

_TEXTS = "--texts TEXTS --length 4 --n 400 --seeds 1 --dimensions 4"
COMMANDS = {
    "probe-snapshots": ("probe-snapshots", "RUN", "--random-trunks", "1", "--json"),
    "cka": ("cka", "RUN", "--sentences", "40", "--random-seeds", "1"),
    "ie": ("ie", "RUN", *_TEXTS.split(), "--json"),
    "units": ("units", "RUN", "--questions", "20", "--draws", "2", "--json"),
    "fewshot": ("fewshot", "RUN", "--shots", "0", "--json"),
    "minimal-pairs": ("minimal-pairs", "RUN", "--json"),
}  # fmt: skip
QUICK = ("cka", "ie")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=LONG) for name in COMMANDS])
def test_a_command_says_on_the_gpu_what_it_says_on_the_cpu(name: str, of_cpu: RunDirectory, folder: Path) -> None:
    from typer.testing import CliRunner

    from emergence.cli import app

    found = {}
    texts = folder / "texts.txt"
    rng = np.random.default_rng(0)
    nouns = ("the dog", "a cat", "the chef", "a guest", "the teacher", "a waiter", "the owner", "a student")
    lines = (" and ".join(rng.choice(nouns, 4)) + "." for _ in range(900))
    texts.write_text("\n".join(lines), encoding="utf-8")
    for device in ("cpu", "cuda"):
        root = folder / f"{name}-{device}"
        shutil.copytree(of_cpu.path, root / of_cpu.run_id)
        named = {"TEXTS": str(texts), "RUN": str(root / of_cpu.run_id)}
        words = [named.get(word, word) for word in COMMANDS[name]]
        with mock.patch("torch.cuda.is_available", return_value=device == "cuda"):
            done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        if "--json" in words:
            found[device] = dict(_numbers(json.loads(done.stdout[done.stdout.index("{") :])))
    if found:
        assert set(found["cpu"]) == set(found["cuda"])
        far = {
            key: (value, found["cuda"][key])
            for key, value in found["cpu"].items()
            if abs(value - found["cuda"][key]) > 0.02 + 0.02 * abs(value)
        }
        assert not far, f"{len(far)} of {len(found['cpu'])} differ: {dict(list(far.items())[:12])}"


@LONG
@pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers here")
def test_a_published_model(folder: Path) -> None:
    from typer.testing import CliRunner

    from emergence.cli import app
    from tests.published_models import save_model

    save_model(folder / "gpt2", "gpt2")
    words = [
        "probe",
        "--model",
        str(folder / "gpt2"),
        "--data",
        "microworld",
        "--twins",
        "1",
        "--finetune-samples",
        "40",
    ]
    small = ["microworld.train_documents=8", "microworld.validation_documents=4", "microworld.test_documents=4"]
    small += ["probe.epochs=1", "probe.max_iterations=5", "evaluate.bootstrap_draws=100", "probe.mdl_epochs=1"]
    flags = [part for setting in small for part in ("--set", setting)]
    done = CliRunner().invoke(app, [*words, *flags, "--runs-dir", str(folder / "published")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
