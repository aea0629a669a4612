"""``python -m emergence``: the ``emergence`` command of a checkout that is not installed.

With ``pip install modal`` alone it still fetches runs, because that is what a launch tells to do next.
"""

from __future__ import annotations

import importlib.util
import sys

from emergence.errors import installed


def main() -> None:
    """The ``emergence`` command, or what of it needs no Typer."""
    with installed():
        if importlib.util.find_spec("typer") is None and sys.argv[1:2] == ["pull"]:
            from emergence.commands.pull import pull_without_typer
            from emergence.remote.refusals import end_with

            try:
                pull_without_typer(sys.argv[2:])
            except Exception as error:
                end_with(error)
                raise
            return
        from emergence.cli import run
    run()


if __name__ == "__main__":
    main()
