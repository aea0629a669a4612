"""Check that every kept answer span of a QA-SRL data source decodes to its answer; the same as ``emergence verify``.

    python verify_qasrl_alignment.py --qa-data PATH [--qa-data PATH ...]
    python verify_qasrl_alignment.py --data microworld

Exit codes: 0 all well, 1 something is misaligned, 2 the data cannot be used.
"""

from __future__ import annotations

from emergence.errors import installed

with installed():
    import typer

    from emergence.cli import run
    from emergence.commands.verify import verify_command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(verify_command)

if __name__ == "__main__":
    run(app)
