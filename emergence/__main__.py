"""``python -m emergence``: the ``emergence`` command of a checkout that is not installed.

With ``pip install modal`` alone it still fetches runs, because that is what a launch tells to do next.
"""

from __future__ import annotations

import importlib.util
import sys

from emergence.errors import installed
from emergence.wording import say


def main() -> None:
    """The ``emergence`` command, or what of it needs no Typer."""
    with installed():
        if importlib.util.find_spec("typer") is None and sys.argv[1:2] == ["pull"]:
            from emergence.commands.pull import pull_without_typer
            from emergence.remote.refusals import ending_in_one_line

            with ending_in_one_line():
                pull_without_typer(sys.argv[2:])
            return
        from emergence.cli import run
    if {"--install-completion", "--show-completion"} & set(sys.argv[1:2]):
        say(
            "error: a shell completes commands by their name: use the installed `emergence --install-completion`",
            err=True,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
