"""``emergence fewshot``: a run's trunks, asked with prompts."""

from __future__ import annotations

from pathlib import Path

from emergence.commands.subject import folder_name, of_run
from emergence.experiment.stop_switch import StopSwitch
from emergence.studies.prompted.answer import PromptedOptions, PromptedStudy, prepare
from emergence.studies.prompted.result import FILES, PromptedResult
from emergence.training.recording import TerminalProgress, plain_messages


def answer_from_prompts(name: str, runs_dir: Path, options: PromptedOptions, out: Path | None) -> PromptedResult:
    """Ask a run's trunks, and write the result.

    Raises:
        UsageError: There is no such run, or it cannot be asked.
        StopRequested: It was asked to stop. The same command goes on.
    """
    run, subject, home = of_run(name, "emergence fewshot", FILES, runs_dir)
    with plain_messages(), StopSwitch() as should_stop:
        work = prepare(run, options)
        study = PromptedStudy(work, subject)
        return study.run(out or home / folder_name(work.name), TerminalProgress(), should_stop)
