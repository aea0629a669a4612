"""What a person asks of an export, refused before anything is read or written. Standard library only."""

from __future__ import annotations

import re

from emergence.errors import UsageError

#: As the hub abbreviates licences: ``apache-2.0``, ``cc-by-4.0``, ``openrail++``, ``other``.
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
#: An owner's or a repository's name on the hub.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
#: Longest name of a repository, with its owner.
_MOST_CHARACTERS = 96


def refuse_licence(licence: str) -> None:
    """Refuse what stands for no licence in a model card.

    Raises:
        UsageError: It is empty, or not one word.
    """
    if not _LICENCE.fullmatch(licence):
        raise UsageError(f"--license {licence[:80]!r}: a licence as the hub abbreviates it, such as cc-by-4.0 or other")


def refuse_repository(name: str) -> None:
    """Refuse what cannot be the name of a repository on the hub.

    Raises:
        UsageError: It is not ``OWNER/NAME``.
    """
    parts = name.split("/")
    fits = len(parts) == 2 and len(name) <= _MOST_CHARACTERS and not name.endswith(".git")
    if not fits or not all(_NAME.fullmatch(part) and "--" not in part and ".." not in part for part in parts):
        raise UsageError(
            f"--push {name[:120] or repr(name)}: a repository on the hub is OWNER/NAME, such as me/my-model"
        )
