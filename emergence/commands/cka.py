"""``emergence cka --model``: which revisions of a published model are compared, and where the result goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from emergence.commands.subject import of_model
from emergence.errors import UsageError
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER
from emergence.measures.cka import CKAMethod
from emergence.model.huggingface.files import choose_revisions, list_revisions
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.cka.analyse import AnalysisFlags
from emergence.studies.cka.published import analyse_revisions
from emergence.studies.cka.result import FILES
from emergence.studies.cka.temporal import CKAOptions
from emergence.studies.revisions.examine import examine_revisions
from emergence.studies.revisions.record import load_revisions
from emergence.training.context import Context
from emergence.training.recording import TerminalProgress, plain_messages

#: Flags of a run that say nothing of a published model.
_OF_RUNS = ("config_name", "against", "seed_twin", "control")


@dataclass(frozen=True, kw_only=True)
class ModelHistory:
    """What ``emergence cka --model`` is asked.

    Attributes:
        spec: The model, the precision of its weights, and where its questions are from.
        revisions: ``A,B,...``, ``all`` or ``log12``.
    """

    spec: ExperimentSpec
    revisions: str


def analyse_model(asked: ModelHistory, flags: AnalysisFlags, runs_dir: Path) -> str:
    """The summary of a temporal CKA over revisions. Those that are not what they say are left out and named.

    Raises:
        UsageError: The model has no revisions that name a step, or a flag is of runs alone.
    """
    if given := next((name for name in _OF_RUNS if getattr(flags, name)), None):
        raise UsageError(f"--{given.replace('_', '-')} is of runs: drop it, or give a run instead of --model")
    spec = replace(asked.spec, qa_data=flags.qa_data or None)
    model = spec.model or ""
    names = choose_revisions(asked.revisions, list_revisions(model))
    options = CKAOptions(
        sentences=flags.sentences,
        method=CKAMethod(flags.estimator, flags.kernel, flags.bandwidth),
        random_seeds=flags.random_seeds,
        cache_dir=runs_dir / CACHE_FOLDER,
        seed=flags.seed,
    )
    home = of_model(model, None, spec.config.probe.weights, FILES, runs_dir)[1]
    with plain_messages(), StopSwitch() as should_stop:
        suspects = _suspects(model, names, runs_dir)
        sound = [name for name in names if name not in suspects]
        result = analyse_revisions(
            spec, sound, home, options=options, left_out=suspects, progress=TerminalProgress(), should_stop=should_stop
        )
    return result.summary()


def _suspects(model: str, names: list[str], runs_dir: Path) -> dict[str, str]:
    """Revisions that are not what they say, by their bytes or by what ``emergence revisions`` found of these bytes."""
    examined = examine_revisions(model, names, Context(), with_loss=False)
    known = load_revisions(runs_dir, model)
    digests = {revision.name: revision.digest for revision in examined.revisions}
    earlier = {
        revision.name: revision.suspect
        for revision in (known.revisions if known else ())
        if revision.suspect is not None and digests.get(revision.name, "") == revision.digest
    }
    return {**earlier, **examined.suspects}
