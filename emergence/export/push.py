"""An export on the Hugging Face hub: the directory itself as ``main``, and every step as a branch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from emergence.errors import EmergenceError, UsageError
from emergence.export.asked import refuse_repository
from emergence.export.folder import Export
from emergence.spec.published import EXPORT_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_export(
    export: Export, name: str, api: HfApi | None = None, report: Callable[[str], None] = lambda _: None
) -> str:
    """Upload an export to the repository ``name``, and return its address.

    A repository that is not there yet is made, and is private until its owner says otherwise; one that holds something
    else than an export is left alone. Branches come first and
    ``main`` last, each as one commit, so that whoever sees ``main`` finds every step. The same call goes on after a
    failure: a commit that would change nothing is left out by the hub's client.

    Args:
        export: The folder, as :func:`~emergence.export.folder.write_export` wrote it.
        name: ``OWNER/NAME``.
        api: The hub's client. The default uses the token that ``hf auth login`` has stored.
        report: Is told every branch that is done.

    Raises:
        UsageError: ``name`` is none, there is no token, the hub does not take it or the name, or the repository
            holds something else.
        EmergenceError: The hub does not answer, or refuses.
    """
    refuse_repository(name)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = api or HfApi(library_name="emergence")
    main, *steps = export.trunks
    try:
        address = str(api.create_repo(name, private=True, exist_ok=True))
        if others := _others(api.list_repo_files(name)):
            raise UsageError(f"--push {name}: it holds {others[0]} and is no export: name another repository")
        for step in steps:
            api.create_branch(name, branch=step.folder, exist_ok=True)
            folder = export.folder / step.folder
            api.upload_folder(repo_id=name, folder_path=folder, revision=step.folder, commit_message=step.what)
            report(f"{name}@{step.folder}: {step.what}")
        apart = [f"{step.folder}/*" for step in steps]
        api.upload_folder(repo_id=name, folder_path=export.folder, ignore_patterns=apart, commit_message=main.what)
    except (LocalTokenNotFoundError, HFValidationError) as error:
        raise UsageError(f"--push {name}: {_first_line(error)}: {_kept(export)}") from None
    except HfHubHTTPError as error:
        kind = UsageError if error.response.status_code in (401, 403) else EmergenceError
        raise kind(f"--push {name}: the hub refuses: {_first_line(error)}: {_kept(export)}") from None
    except Exception as error:
        if not _is_of_the_network(error):
            raise
        raise EmergenceError(f"--push {name}: the hub does not answer: {_first_line(error)}: {_kept(export)}") from None
    return address


def _others(files: Iterable[str]) -> list[str]:
    """What a repository holds that no export put there; nothing if it is an export itself."""
    there = set(files)
    return [] if EXPORT_FILE in there else sorted(there - {".gitattributes"})


def _is_of_the_network(error: Exception) -> bool:
    """Whether the library below the client failed. Which one it is changes with the client's version."""
    family = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or not family.isdisjoint({"requests", "httpx", "httpx2"})


def _kept(export: Export) -> str:
    return f"{export.folder} is whole; the same command again uploads what is missing (a token: hf auth login)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
