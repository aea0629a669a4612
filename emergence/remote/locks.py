"""Who may write a run on the volume: one launch, and of its training calls one.

Under ``RUN`` in the table stands the launch (the call of ``prepare`` that reserved the run), under ``RUN/writer`` the
call that trains, with the account of its attempts. The table has no transaction, so the order decides. A writer first
writes its claim and then reads whether its launch still stands. Whoever takes a run away first deletes the launch and
then reads the claim. A writer asks again before each publication, so one that has lost its run leaves the volume alone.
Its claim stays, so that the next writer knows whose end to wait for.
"""

from __future__ import annotations

import time
from typing import Any

import modal

from emergence.errors import RunDirectoryError
from emergence.remote.calls import Look, look_at, patiently

LOCKS = "emergence-run-locks"
#: A writer that has lost its run has this long to end, before the next one writes.
LEAVING_SECONDS = 180.0
locks = modal.Dict.from_name(LOCKS, create_if_missing=True)


class RunInUseError(RunDirectoryError):
    """Another call has the run, or may have it.

    Attributes:
        call: Its id, where it is known.
        is_certain: False where Modal did not say whether that call has ended, so that asking again may help.
    """

    def __init__(self, message: str, call: str | None = None, *, is_certain: bool = True) -> None:
        super().__init__(message)
        self.call, self.is_certain = call, is_certain


def launch_of(run_id: str) -> dict[str, Any]:
    """The launch that has a run: ``holder`` and ``train``, ids of calls; empty where none has it."""
    return dict(patiently(lambda: locks.get(run_id)) or {})


def writer_of(run_id: str) -> dict[str, Any]:
    """The training call that writes a run, with its account; empty where there is none."""
    return dict(patiently(lambda: locks.get(_writer(run_id))) or {})


def claimed_by(run_id: str, holder: str) -> str | None:
    """The training call of a launch that has claimed a run; None where none has."""
    writer = writer_of(run_id)
    return writer["call"] if writer.get("holder") == holder else None


def calls_of(run_id: str) -> list[str]:
    """Every call of the launch that has a run, the one that writes last; none where the run is free."""
    return _calls_of(run_id, launch_of(run_id))


def reserve(run_id: str, call_id: str, **about: Any) -> dict[str, Any]:
    """Make ``call_id`` the only launch that may write a run; returns the launch.

    Args:
        **about: What else the table is to say of the launch.

    Raises:
        RunInUseError: Another launch holds the run, and has not ended or may not have.
    """
    mine = {"holder": call_id, "train": None, **about}
    if patiently(lambda: locks.put(run_id, mine, skip_if_exists=True)):
        return mine
    launch = launch_of(run_id)
    if launch.get("holder") == call_id:
        return launch
    refuse_if_in_use(run_id)
    revoke(run_id)
    if patiently(lambda: locks.put(run_id, mine, skip_if_exists=True)):
        return mine
    if launch_of(run_id).get("holder") != call_id:
        raise RunInUseError(f"{run_id} was taken by another launch a moment ago: wait for it")
    return mine


def note_training(run_id: str, launch: dict[str, Any], call_id: str) -> None:
    """Write down the call that trains, as the launch's, unless the run was taken away from it."""
    launch["train"] = call_id
    if launch_of(run_id).get("holder") == launch["holder"]:
        patiently(lambda: locks.put(run_id, launch))


def claim(run_id: str, holder: str, call_id: str) -> dict[str, Any]:
    """Make ``call_id`` the only call of its launch that writes a run; returns its account, empty at its first attempt.

    Raises:
        RunInUseError: The run is another launch's, or another call of this one's has it.
    """
    mine: dict[str, Any] = {"call": call_id, "holder": holder}
    if not patiently(lambda: locks.put(_writer(run_id), mine, skip_if_exists=True)):
        writer = writer_of(run_id)
        if writer.get("holder") == holder:  # an attempt of this call, or the other of two that were spawned
            if writer["call"] != call_id:
                _refuse_unless_ended(run_id, writer["call"])
            mine = {**writer, **mine}
        elif writer:
            _wait_for_the_end_of(writer["call"])
        patiently(lambda: locks.put(_writer(run_id), mine))
    refuse_unless_mine(run_id, holder, call_id)
    return mine


def is_mine(run_id: str, holder: str, call_id: str) -> bool:
    """Whether a call may still write the run: it has the claim, and its launch stands."""
    return writer_of(run_id).get("call") == call_id and launch_of(run_id).get("holder") == holder


def refuse_unless_mine(run_id: str, holder: str, call_id: str) -> None:
    """Raise ``RunInUseError`` unless :func:`is_mine`."""
    if not is_mine(run_id, holder, call_id):
        others = [each for each in calls_of(run_id) if each not in (holder, call_id)]
        message = f"{run_id} is in use by another launch, or was cancelled: wait for it, or stop it"
        raise RunInUseError(message, others[-1] if others else None)


def keep_account(run_id: str, account: dict[str, Any]) -> None:
    """Write the account of the writer, ``account["call"]``, unless another call writes the run by now."""
    if writer_of(run_id).get("call") == account["call"]:
        patiently(lambda: locks.put(_writer(run_id), account))


def release(run_id: str, holder: str) -> None:
    """Give a run back, if the launch still has it."""
    if launch_of(run_id).get("holder") == holder:
        patiently(lambda: locks.pop(run_id, None))
        patiently(lambda: locks.pop(_writer(run_id), None))


def revoke(run_id: str) -> list[str]:
    """Take a run away from whoever has it; returns the calls that had it, which stop at their next look."""
    launch = launch_of(run_id)
    patiently(lambda: locks.pop(run_id, None))  # first this, then the claim: see above
    return _calls_of(run_id, launch)


def refuse_if_in_use(run_id: str) -> None:
    """Raise unless every call that has the run is known to have ended.

    Raises:
        RunInUseError: Naming the call, and whether it goes on or nothing is known of it.
    """
    for call_id in reversed(calls_of(run_id)):
        _refuse_unless_ended(run_id, call_id)


def standing_of(run_id: str) -> Look | None:
    """How the first call of a run that has not ended stands; None where all have, or there is none."""
    looks = (look_at(call_id) for call_id in reversed(calls_of(run_id)))
    return next((look for look in looks if look.state != "ended"), None)


def _refuse_unless_ended(run_id: str, call_id: str) -> None:
    look = look_at(call_id)
    if look.state == "going":
        raise RunInUseError(
            f"{run_id} is being written by {call_id}: wait for it, or stop its app (modal app list)", call_id
        )
    if look.state == "not known":
        raise RunInUseError(
            f"{run_id} belongs to {call_id}, and Modal does not say whether that has ended ({look.why}): "
            "try again in a minute",
            call_id,
            is_certain=False,
        )


def _wait_for_the_end_of(call_id: str) -> None:
    """Wait, for a while, until a call has ended that has lost the run: it may be in the middle of a publication."""
    end = time.monotonic() + LEAVING_SECONDS
    while look_at(call_id).state != "ended" and time.monotonic() < end:
        time.sleep(1.0)


def _calls_of(run_id: str, launch: dict[str, Any]) -> list[str]:
    if not launch:
        return []
    named = (launch["holder"], launch.get("train"), claimed_by(run_id, launch["holder"]))
    return list(dict.fromkeys(call_id for call_id in named if call_id))


def _writer(run_id: str) -> str:
    return f"{run_id}/writer"
