"""Next-token pretraining on packed text, resumable at any step to the bit.

The loop is a sequence of updates. Between them it evaluates, keeps snapshots and saves checkpoints as the plan says.
The seed and the data decide what an update computes, and a checkpoint holds everything else that counts. So a run that
is killed anywhere and resumed ends with the same weights and history.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from emergence.data.stream import SequenceOrder, TokenStream
from emergence.model import Trunk
from emergence.spec.config import PretrainConfig
from emergence.spec.experiment import OnNan
from emergence.training.context import Context
from emergence.training.execution import Gradients, choose_forward, choose_micro_batch, is_replayed
from emergence.training.language_model_eval import evaluate_language_model
from emergence.training.loop import LoopState, TrainingLoop
from emergence.training.optim import build_optimizers
from emergence.training.pretrain_result import PretrainResult
from emergence.training.recording import NoProgress, NullRecorder
from emergence.training.schedule import context_window, learning_rate_factor, plan_pretraining

logger = logging.getLogger(__name__)

PHASE = "pretrain"
_CURE = "lower pretrain.muon_lr and pretrain.adamw_lr, or use pretrain.precision=fp32"

#: Called with a name (``pretrain_epoch_<n>``, ``pretrain_step_<n>``), the trunk and plain facts about it.
SaveSnapshot = Callable[[str, Trunk, dict[str, Any]], None]


def pretrain(
    trunk: Trunk,
    train: TokenStream,
    validation: TokenStream,
    config: PretrainConfig,
    context: Context,
    *,
    seed: int,
    save_snapshot: SaveSnapshot,
    on_nan: OnNan = "stop",
) -> PretrainResult:
    """Train ``trunk`` in place, going on from the newest checkpoint if there is one.

    With ``patience``, the trunk ends with the weights of its best evaluation, and otherwise with the last ones.

    Args:
        trunk: Freshly initialised. It is moved to the context's device.
        train: Text to learn. validation: Held-out text.
        config: All settings but the precision, which is the context's: the configured one resolved for a device.
        context: Its recorder takes ``pretrain_step`` and ``pretrain_evaluation`` lines, and ``pretrain`` timings. Of
            its workers only the first records, saves and shows.
        seed: Decides the order of the sequences.
        save_snapshot: Keeps the weights at a named point. After a resume it may be called again for the same point.
        on_nan: What to do about a loss or gradient that is not finite (:mod:`emergence.training.loop`). The history
            records a rewind.

    Raises:
        DataError: The text is shorter than one sequence.
        NonFiniteLossError: A number is not finite. The message names the step, its sequences and what is kept.
        StopRequested: ``should_stop`` said so. A checkpoint is saved.
    """
    if not context.workers.is_first:
        context = replace(context, recorder=NullRecorder(), progress=NoProgress())
    loop = _Pretraining(trunk.to(context.device), train, validation, config, context, seed, save_snapshot, on_nan)
    loop.run()
    return loop.result()


@dataclass
class _State(LoopState):
    """Where a run is. A checkpoint holds this beside weights and optimisers."""

    step: int = 0
    tokens_seen: int = 0
    loss_sum: float = 0.0  # of the updates since the last history line
    loss_count: int = 0
    validation_loss: float = math.inf
    best_loss: float = math.inf
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped_early: bool = False
    micro_batch: int = 0


@dataclass
class _Pretraining(TrainingLoop):
    """One pretraining: its parts, and the steps of its loop."""

    phase = PHASE
    title = "pretraining"

    trunk: Trunk
    train: TokenStream
    validation: TokenStream
    config: PretrainConfig
    context: Context
    seed: int
    save_snapshot: SaveSnapshot
    on_nan: OnNan
    state: _State = field(default_factory=_State, init=False)

    def __post_init__(self) -> None:
        super().__init__(self.context, (self.trunk,), self.on_nan, (self.config.checkpoint_every_steps,), _CURE)
        self.workers, self.recorder = self.context.workers, self.context.recorder
        self.length = self.trunk.config.sequence_length
        self.order = SequenceOrder(self.train.n_sequences(self.length), self.seed)
        self.plan = plan_pretraining(self.config, self.order.n_sequences)
        self.optimizers = build_optimizers(self.trunk, self.config, self.context.precision)
        self.best_weights: dict[str, Tensor] | None = None
        self._gradients: Gradients | None = None

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def finished(self) -> bool:
        return self.state.step >= self.plan.total_steps or self.state.stopped_early

    @property
    def extent(self) -> tuple[int, str, int]:
        return self.plan.total_steps * self.plan.batch_size * self.length, "tokens", self.state.tokens_seen

    def prepare(self, *, resumed: bool) -> None:
        """Choose the micro-batch, whether to compile, and whether to replay."""
        if resumed:
            total = self.plan.total_steps
            logger.info("pretraining resumes at step %d of %d%s", self.state.step, total, self._windows())
        per_worker = math.ceil(self.plan.batch_size / self.workers.size)
        micro = self.state.micro_batch or choose_micro_batch(self.trunk, self.config, per_worker, self.context)
        self.state.micro_batch = micro
        # The whole run decides, not the rest of it: compiled and uncompiled results differ in the last digits.
        tokens = self.plan.total_steps * per_worker * self.length
        self.forward, self.compiled = choose_forward(self.trunk, self.config, tokens, micro, self.context)
        self.replayed = is_replayed(self.trunk, self.config.compile, per_worker, micro, self.context)
        if not resumed:
            self._log_plan()

    def begin(self) -> None:
        if self.state.step == 0:
            self._arrive()

    def advance(self) -> None:
        self.stop_if_asked(f"stopped at step {self.step} of pretraining; the same command resumes")
        loss = self._update()
        self._arrive()
        tokens = self.plan.batch_size * self.length
        self.context.progress.update(tokens, loss=loss, validation=self.state.validation_loss)

    def content(self) -> dict[str, Any]:
        return {
            "state": {**asdict(self.state), "seconds": self.seconds()},
            "trunk": self.trunk.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "best_weights": self.best_weights,
        }

    def restore(self, content: dict[str, Any]) -> None:
        self.state = _State(**content["state"])
        self.trunk.load_state_dict(content["trunk"])
        self.optimizers.load_state_dict(content["optimizers"])
        self.best_weights = content["best_weights"]

    def _log_plan(self) -> None:
        passes = self.plan.total_steps * self.plan.batch_size / self.order.n_sequences
        self.recorder.log(
            "pretrain_plan",
            total_steps=self.plan.total_steps,
            batch_size=self.plan.batch_size,
            sequences=self.order.n_sequences,
            sequence_length=self.length,
            passes=passes,
            initial_context=self.config.initial_context,
            windowed_updates=self.plan.windowed_updates,
        )
        logger.info(
            "pretraining: %d updates of %d sequences, %.2f passes over %d sequences of %d tokens%s",
            self.plan.total_steps, self.plan.batch_size, passes, self.order.n_sequences, self.length, self._windows(),
        )  # fmt: skip

    def _windows(self) -> str:
        if self.step >= self.plan.windowed_updates:
            return ""
        return f", in windows of {self.config.initial_context} up to step {self.plan.windowed_updates}"

    # One update ---------------------------------------------------------------------------------

    def _update(self) -> float:
        """Take the next batch and move the weights. Returns its loss in nats per token."""
        state = self.state
        batch = self.order.take(state.step * self.plan.batch_size, self.plan.batch_size)
        mine = self.workers.shard(batch)
        ids = torch.from_numpy(self.train.get(mine, self.length))  # (b, T+1)
        found = self._gradients_for_update()(ids, of=len(batch))
        self.optimizers.set_factor(self._rate(state.step))
        local, norm = found.tolist()  # the update's one wait for the GPU
        loss = self.workers.sum([local], self.context.device)[0]
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.optimizers.zero_grad()
            what = f"the loss is {loss} and its gradient's norm {norm} on sequences {batch.tolist()}"
            raise self.failure(what, state.step + 1)
        self.optimizers.step()
        self.optimizers.zero_grad()
        state.step += 1
        state.tokens_seen += len(batch) * self.length
        state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
        if state.step % self.config.log_every_steps == 0 or state.step == self.plan.total_steps:
            self._log_step(norm)
        return loss

    def _gradients_for_update(self) -> Gradients:
        """The :class:`Gradients` of the coming update, made anew when the context window changes."""
        window = context_window(self.step, self.config, self.plan.total_steps)
        if self._gradients is None or self._gradients.window != window:
            if self._gradients is not None and not window:
                logger.info("pretraining: whole sequences of %d tokens from step %d on", self.length, self.step)
            self._gradients = Gradients(
                self.forward, self.trunk, self.config, self.state.micro_batch, self.context,
                replayed=self.replayed, window=window,
            )  # fmt: skip
            if self.replayed:
                self.optimizers.replay()  # captured anew, because gradients are in other places
        return self._gradients

    def _rate(self, step: int) -> float:
        """Share of the peak learning rates at ``step``: the schedule's share, halved by every rewind."""
        factor = learning_rate_factor(step, self.config, self.plan.total_steps)
        return factor * self.rate_factor

    def _log_step(self, grad_norm: float) -> None:
        state = self.state
        factor = self._rate(state.step - 1)
        self.recorder.log(
            "pretrain_step",
            step=state.step,
            tokens=state.tokens_seen,
            loss=state.loss_sum / state.loss_count,
            lr=factor * self.config.adamw_lr,
            **({"muon_lr": factor * self.config.muon_lr} if self.config.optimizer == "muon" else {}),
            grad_norm=grad_norm,
        )
        state.loss_sum, state.loss_count = 0.0, 0
        self.recorder.time("pretrain", step=state.step, tokens=state.tokens_seen, seconds=self.seconds())

    # Between updates ----------------------------------------------------------------------------

    def _arrive(self) -> None:
        """Do what the plan says for the step just reached: evaluate, keep snapshots, save a checkpoint."""
        step = self.state.step
        if step in self.plan.evaluation_steps:  # the steps of snapshots are among them
            self.refuse_unless_finite()
            self._evaluate()
        if step in self.plan.snapshot_steps:
            self._snapshot(f"pretrain_step_{step}")
        if step in self.plan.epoch_steps:
            self._snapshot(f"pretrain_epoch_{self.plan.epoch_steps.index(step) + 1}")
        if self.finished and self.best_weights is not None:
            self.trunk.load_state_dict(self.best_weights)
            self.state.validation_loss = self.state.best_loss
        if self.finished or (step and step % self.config.checkpoint_every_steps == 0):
            self.save()

    def _evaluate(self) -> None:
        measured = evaluate_language_model(
            self.trunk, self.validation, self.length, self.context, self.config.loss_chunk_rows,
            self.config.validation_tokens, strided=False,
        )  # fmt: skip
        state, loss = self.state, measured.nats_per_token
        if not math.isfinite(loss):
            raise self.failure(f"the validation loss is {loss}", state.step)
        state.validation_loss = loss
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.evaluations_since_best = loss, state.step, 0
            if self.config.patience:
                self.best_weights = {name: value.clone() for name, value in self.trunk.state_dict().items()}
        else:
            # While windows last, the loss on whole sequences lags: that it does not fall says nothing.
            state.evaluations_since_best += state.step > self.plan.windowed_updates
            state.stopped_early = 0 < self.config.patience <= state.evaluations_since_best
        self.recorder.log(
            "pretrain_evaluation",
            step=state.step,
            tokens=state.tokens_seen,
            validation_loss=loss,
            perplexity=measured.perplexity,
            bits_per_byte=measured.bits_per_byte,
            scored_tokens=measured.n_tokens,
        )

    def _snapshot(self, name: str) -> None:
        if self.workers.is_first:
            facts = {"step": self.state.step, "tokens_seen": self.state.tokens_seen}
            self.save_snapshot(name, self.trunk, {**facts, "validation_loss": self.state.validation_loss})

    def result(self) -> PretrainResult:
        state, seconds = self.state, self.seconds()
        samples = state.step * self.plan.batch_size
        return PretrainResult(
            steps=state.step,
            tokens_seen=state.tokens_seen,
            epochs=samples / self.config.samples_per_epoch,
            passes=samples / self.order.n_sequences,
            validation_loss=state.validation_loss,
            best_validation_loss=state.best_loss,
            best_step=state.best_step,
            stopped_early=state.stopped_early,
            seconds=seconds,
            tokens_per_second=state.tokens_seen / seconds if seconds else 0.0,
            micro_batch_size=state.micro_batch,
            precision=self.precision,
            compiled=self.compiled,
            rewinds=state.rewinds,
        )
