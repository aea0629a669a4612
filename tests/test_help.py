"""Every command's ``--help``, word for word as stored in ``tests/help``: no flag changes unnoticed."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.command_lines import every_help

FOLDER = Path(__file__).parent / "help"
REWRITE = "python -m pytest tests/test_help.py --update-help"
HELP = every_help()


def stored(command: str) -> Path:
    """Where the ``--help`` of a command line lies."""
    return FOLDER / f"{command.replace(' ', '-').replace('/', '-')}.txt"


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether the files are to be rewritten."""
    return bool(request.config.getoption("--update-help"))


@pytest.mark.parametrize("command", HELP)
def test_help_is_as_stored(command: str, update: bool) -> None:
    file, text = stored(command), HELP[command]
    if update:
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if text != before:
        changes = difflib.unified_diff(before.splitlines(), text.splitlines(), file.name, "now", lineterm="")
        advice = f"{command} --help has changed. If it was meant, run `{REWRITE}` and look at the diff."
        pytest.fail("\n".join([advice, *changes]), pytrace=False)


def test_no_help_is_stored_of_what_is_gone(update: bool) -> None:
    stale = set(FOLDER.glob("*")) - {stored(command) for command in HELP}
    if update:
        for file in stale:
            file.unlink()
        return
    names = sorted(file.name for file in stale)
    assert not names, f"no command has this help any more: remove {names}, or run `{REWRITE}`"


def test_commands_are_found() -> None:
    """The walk itself finds what it should: groups, both kinds of entry point, scripts."""
    assert {
        "emergence",
        "emergence run",
        "emergence sweep status",
        "modal run pretrain_wikitext_finetune_qasrl_modal.py",
        "modal run temporal_cka_analysis.py",
        "python temporal_cka_analysis.py",
        "python scripts/generate_figures.py",
    } <= set(HELP)
