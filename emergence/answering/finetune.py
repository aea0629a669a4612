"""Full finetuning: trunk and span head trained together on question-answer spans.

Validation F1, the score that is reported, chooses the best epoch and decides on early stopping. Validation loss would
stop an epoch earlier, while the number of right spans still grows. At the end trunk and head hold the weights of the
best epoch. A run killed at any moment, within an epoch too, resumes from its newest checkpoint and ends bit-identical.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from emergence.answering.evaluate import gold_spans, quick_scores
from emergence.answering.features import predict_finetuned, span_logits
from emergence.answering.finetune_result import EpochScores, FinetuneResult
from emergence.data.qa_encoding import EncodedQA, IntArray, PaddedBatch, batches_by_length
from emergence.errors import EmergenceError
from emergence.model import SpanHead, Trunk, span_cross_entropy
from emergence.model.dropout import ResidualDropout
from emergence.spec.config import FinetuneConfig
from emergence.spec.experiment import OnNan
from emergence.spec.search_budget import passes_per_epoch
from emergence.training.context import Context
from emergence.training.determinism import in_one_order
from emergence.training.loop import LoopState, TrainingLoop
from emergence.training.optim import AdamW, clip_gradients

logger = logging.getLogger(__name__)

PHASE = "finetune"

#: ``(name, trunk, head, metadata)`` of a snapshot to write.
SaveModel = Callable[[str, Trunk, SpanHead, dict[str, Any]], None]


@dataclass
class _State(LoopState):
    """Everything besides the weights and the optimiser that decides what happens next."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    questions: int = 0
    epochs: list[EpochScores] = field(default_factory=list)
    best_weights: dict[str, dict[str, Tensor]] | None = None

    @property
    def best(self) -> EpochScores | None:
        return max(self.epochs, key=lambda e: (e.validation_f1, -e.validation_loss), default=None)

    def stale_epochs(self) -> int:
        return self.epochs[-1].epoch - self.best.epoch if self.best else 0


def finetune(
    trunk: Trunk,
    head: SpanHead,
    train: EncodedQA,
    validation: EncodedQA,
    config: FinetuneConfig,
    context: Context,
    *,
    seed: int,
    max_answer_words: int,
    save_snapshot: SaveModel | None = None,
    on_nan: OnNan = "stop",
    carried: dict[str, Any] | None = None,
    announce: bool = True,
) -> FinetuneResult:
    """Train ``trunk`` and ``head`` in place. They end with the weights of the best epoch.

    Args:
        trunk, head: The model. It is moved to the context's device.
        train, validation: Encoded questions.
        config: Settings of the optimiser, the epochs and the checkpoints.
        context: Its recorder takes history lines ``finetune_step`` and ``finetune_epoch``.
        seed: Seed of the order of training questions and of dropout's masks.
        max_answer_words: Longest span decoded on validation.
        save_snapshot: Called after every epoch with the name ``finetune_epoch_<n>``.
        on_nan: What to do about a loss or gradient that is not finite, as in pretraining.
        carried: Plain values that every checkpoint holds for the caller, under ``carried``.
        announce: Whether a line is logged for every epoch.

    Raises:
        StopRequested: ``should_stop`` was true. A checkpoint was saved, and the same call resumes.
        NonFiniteLossError: A loss or gradient is not finite; step, batch and cause are named.
        EmergenceError: There are no questions.
    """
    if not len(train) or not len(validation):
        raise EmergenceError("finetuning needs training and validation questions: give more data, or longer sequences")
    trunk, head = trunk.to(context.device), head.to(context.device)
    loop = _Finetuning(
        trunk, head, train, validation, config, context, seed, max_answer_words,
        save_snapshot, on_nan, carried, announce,
    )  # fmt: skip
    try:
        loop.run()
        return loop.result()
    finally:
        loop.dropout.remove()


@dataclass
class _Finetuning(TrainingLoop):
    """One finetuning: its parts, and the steps of its loop."""

    phase = PHASE
    title = "finetuning"

    trunk: Trunk
    head: SpanHead
    train: EncodedQA
    validation: EncodedQA
    config: FinetuneConfig
    context: Context
    seed: int
    max_answer_words: int
    save_snapshot: SaveModel | None
    on_nan: OnNan
    carried: dict[str, Any] | None
    announce: bool
    state: _State = field(default_factory=_State, init=False)

    def __post_init__(self) -> None:
        first_epoch = self._batches(0)
        self.steps_per_epoch = len(first_epoch)
        self.questions_per_epoch = sum(map(len, first_epoch))
        self.optimizer = build_optimizer(self.trunk, self.head, self.config)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        #: Loss, gradient norm and questions of steps in no history line yet; on the device until they are read.
        self.pending: list[tuple[Tensor, Tensor, int]] = []
        self.dropout = ResidualDropout(self.trunk, self.config.dropout, self.seed)
        self.shown: dict[str, float] = {}
        cure = f"lower finetune.lr, now {self.config.lr:g}, for example --set finetune.lr={self.config.lr / 3:.1g}"
        intervals = (self.config.checkpoint_every_steps, self.steps_per_epoch)
        super().__init__(self.context, (self.trunk, self.head), self.on_nan, intervals, cure)

    @property
    def step(self) -> int:
        return self.state.epoch * self.steps_per_epoch + self.state.batch

    @property
    def place(self) -> tuple[int, ...]:
        return self.state.epoch, self.state.batch  # an epoch's last step, and its end

    @property
    def finished(self) -> bool:
        out_of_patience = 0 < self.config.patience <= self.state.stale_epochs()
        return self.state.epoch >= self.config.epochs or out_of_patience

    @property
    def extent(self) -> tuple[int, str, int]:
        return self.config.epochs * self.steps_per_epoch, "steps", self.step

    def where(self, step: int) -> str:
        epoch, batch = divmod(max(step - 1, 0), self.steps_per_epoch)
        return f"{super().where(step)} (epoch {epoch + 1}, batch {batch + 1})"

    def advance(self) -> None:
        """Train what is left of an epoch."""
        self._train_epoch()
        self._end_epoch()

    def result(self) -> FinetuneResult:
        """The outcome. Trunk and head get the weights of the best epoch."""
        best = self.state.best
        if best is None or self.state.best_weights is None:
            raise RuntimeError("finetuning ended without an epoch")
        self.trunk.load_state_dict(self.state.best_weights["trunk"])
        self.head.load_state_dict(self.state.best_weights["head"])
        seconds = self.seconds()
        seen = self.state.epoch * self.questions_per_epoch
        return FinetuneResult(
            epochs=tuple(self.state.epochs),
            best=best,
            steps=self.step,
            stopped_early=self.state.epoch < self.config.epochs,
            seconds=seconds,
            questions_per_second=seen / seconds if seconds > 0 else 0.0,
            rewinds=self.state.rewinds,
        )

    def _batches(self, epoch: int) -> list[IntArray]:
        return training_batches(self.train, self.config, seed=self.seed, epoch=epoch)

    def _train_epoch(self) -> None:
        self.trunk.train()
        for index in self._batches(self.state.epoch)[self.state.batch :]:
            batch = self.train.padded_batch(index)
            self._set_learning_rates()
            self.dropout.start_step(self.step)
            with in_one_order(self.context.device):
                loss = self._loss(batch)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            norm = clip_gradients([*self.trunk.parameters(), *self.head.parameters()], self.config.grad_clip)
            self.optimizer.step()
            self.pending.append((loss.detach(), norm, len(index)))
            self.state.batch += 1
            self._after_step()

    def _loss(self, batch: PaddedBatch) -> Tensor:
        start, end = span_logits(self.trunk, self.head, batch, self.context)
        golds = gold_tensors(batch, self.context.device)
        return span_cross_entropy(start, end, *golds, train_gold=self.config.train_gold)

    def _after_step(self) -> None:
        config, step = self.config, self.step
        if step % config.log_every_steps == 0:
            self.shown = {"loss": (loss := self._drain()), "epoch": self.state.epoch + 1}
            rate = float(self.optimizer.param_groups[0]["lr"])
            self.context.recorder.log("finetune_step", step=step, epoch=self.state.epoch + 1, loss=loss, lr=rate)
        self.context.progress.update(1, **self.shown)
        self.stop_if_asked(f"stopped after finetuning step {step}; the same command goes on from here")
        if step % config.checkpoint_every_steps == 0:
            self.save()

    def _drain(self) -> float:
        """Mean loss since the last call. It is read here and not at every step, so that a GPU can run ahead."""
        if not self.pending:
            return float("nan")
        losses = self._read_pending()
        total = math.fsum(loss * n for loss, n in losses)
        questions = sum(n for _, n in losses)
        self.state.loss_sum += total
        self.state.questions += questions
        self.pending.clear()
        return total / questions

    def _read_pending(self) -> list[tuple[float, int]]:
        """Losses and questions of the steps since the last history line; all of them are finite."""
        first = self.step - len(self.pending) + 1
        read = [(float(loss), float(norm), n) for loss, norm, n in self.pending]
        for step, (loss, norm, _) in enumerate(read, start=first):
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise self.failure(f"the loss is {loss} and its gradient's norm {norm}", step)
        return [(loss, n) for loss, _, n in read]

    def _end_epoch(self) -> None:
        self._drain()
        self.refuse_unless_finite()
        state = self.state
        train_loss = state.loss_sum / state.questions
        logits = predict_finetuned(self.trunk.eval(), self.head, self.validation, self.context)
        quick = quick_scores(logits, gold_spans(self.validation), self.max_answer_words, self.config.train_gold)
        if not math.isfinite(quick.loss):
            raise self.failure(f"the validation loss is {quick.loss}", self.step)
        scores = EpochScores(state.epoch + 1, train_loss, quick.loss, quick.em, quick.f1)
        state.epochs.append(scores)
        state.epoch, state.batch, state.loss_sum, state.questions = state.epoch + 1, 0, 0.0, 0
        self.context.recorder.log("finetune_epoch", **asdict(scores))
        self.context.recorder.time("finetune_epoch", epoch=scores.epoch, seconds=self.seconds())
        logger.log(
            logging.INFO if self.announce else logging.DEBUG,
            "epoch %d: training loss %.3f, validation loss %.3f, EM %.3f, F1 %.3f",
            *asdict(scores).values(),
        )
        if scores == state.best:
            state.best_weights = {name: _copied(m) for name, m in (("trunk", self.trunk), ("head", self.head))}
        if self.save_snapshot is not None:
            self.save_snapshot(f"finetune_epoch_{scores.epoch}", self.trunk, self.head, asdict(scores))
        self.save()

    def _set_learning_rates(self) -> None:
        factor = schedule(self.step, self.config.epochs * self.steps_per_epoch, self.config.warmup_fraction)
        factor *= self.rate_factor
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def content(self) -> dict[str, Any]:
        return {
            "trunk": self.trunk.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.state.epoch,
            "batch": self.state.batch,
            "loss_sum": self.state.loss_sum,
            "questions": self.state.questions,
            # They are kept apart from loss_sum, so that the next history line is the same after a resume.
            "pending": self._read_pending(),
            "epochs": [asdict(scores) for scores in self.state.epochs],
            "best_weights": self.state.best_weights,
            "seconds": self.seconds(),
            "rewinds": self.state.rewinds,
            "steps_per_epoch": self.steps_per_epoch,
            "carried": self.carried,
        }

    def restore(self, content: dict[str, Any]) -> None:
        if content["steps_per_epoch"] != self.steps_per_epoch:
            raise EmergenceError("the checkpoint was made with other training questions or another finetune.batch_size")
        self.trunk.load_state_dict(content["trunk"])
        self.head.load_state_dict(content["head"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.state = _State(
            epoch=content["epoch"],
            batch=content["batch"],
            loss_sum=content["loss_sum"],
            questions=content["questions"],
            epochs=[EpochScores(**scores) for scores in content["epochs"]],
            best_weights=content["best_weights"],
            seconds=content["seconds"],
            rewinds=content.get("rewinds", 0),  # absent in checkpoints of an earlier version
        )
        self.pending = [(torch.tensor(loss, dtype=torch.float64), torch.zeros(()), n) for loss, n in content["pending"]]


def training_batches(train: EncodedQA, config: FinetuneConfig, *, seed: int, epoch: int) -> list[IntArray]:
    """One epoch's batches: one pass over the questions, or as many as make ``config.min_steps_per_epoch`` steps.

    Ten questions are one step a pass, so without a least number of steps a few-shot run would end untrained.
    """
    passes = passes_per_epoch(len(train), config)
    orders = range(epoch * passes, (epoch + 1) * passes)
    return [index for k in orders for index in batches_by_length(train.lengths, config.batch_size, seed=seed, epoch=k)]


def build_optimizer(trunk: nn.Module, head: nn.Module, config: FinetuneConfig) -> AdamW:
    """AdamW with ``lr`` for the trunk and ``head_lr`` for the head. Only matrices decay, not norm gains and biases."""
    groups = []
    for module, lr in ((trunk, config.lr), (head, config.head_lr)):
        trained = [p for p in module.parameters() if p.requires_grad]  # of a trunk with an adapter, that alone
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        groups.append({"params": matrices, "lr": lr, "weight_decay": config.weight_decay})
        if vectors:
            groups.append({"params": vectors, "lr": lr, "weight_decay": 0.0})
    return AdamW(groups, betas=(0.9, 0.98), fused=True)


def schedule(step: int, total: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at ``step`` (from 0): linear warm-up, then linear decay to zero at ``total``."""
    warmup = round(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def gold_tensors(batch: PaddedBatch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Word mask (B, W), gold starts, gold ends and gold mask (B, G) of a batch on ``device``."""
    arrays = (batch.word_mask, batch.gold_starts, batch.gold_ends, batch.gold_mask)
    mask, starts, ends, gold_mask = (torch.from_numpy(array).to(device) for array in arrays)
    return mask, starts, ends, gold_mask


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
