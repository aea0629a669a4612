"""One writer per run directory; locks of the dead do not count."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emergence.errors import RunDirectoryError
from emergence.experiment import locks
from emergence.experiment.locks import LOCK_FILE, STALE_SECONDS, RunLock, read_holder
from tests.fault_injection import failing

PROGRAM = """
import sys
from pathlib import Path
from emergence.errors import RunDirectoryError
from emergence.experiment.locks import RunLock
try:
    with RunLock(Path(sys.argv[1])):
        print("locked", flush=True)
        sys.stdin.readline()
except RunDirectoryError as error:
    print(f"refused: {error}", flush=True)
"""


@contextmanager
def other_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that takes the lock and holds it until it reads a line; with the first line it printed."""
    root = Path(__file__).resolve().parents[2]
    worker = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stdin=-1, stdout=-1, text=True, cwd=root)
    assert worker.stdout is not None
    try:
        yield worker, worker.stdout.readline().strip()
    finally:
        worker.kill()
        worker.communicate()


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    with other_process(tmp_path) as (worker, said):
        assert said == "locked"
        with pytest.raises(RunDirectoryError, match=f"is being written by process {worker.pid} on "), RunLock(tmp_path):
            pass
        holder = read_holder(tmp_path)
        assert holder is not None and holder.pid == worker.pid
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        worker.wait()
    assert not list(tmp_path.iterdir()), "a released lock leaves nothing"
    with RunLock(tmp_path), other_process(tmp_path) as (_, said):
        assert said.startswith("refused") and f"process {os.getpid()}" in said


def test_the_lock_of_a_killed_process_does_not_count(tmp_path: Path) -> None:
    with other_process(tmp_path) as (worker, said):
        assert said == "locked"
        os.kill(worker.pid, signal.SIGKILL)
        # Not waited for: a zombie is dead too.
        while read_holder(tmp_path) is not None:
            time.sleep(0.001)
        (tmp_path / ".history.1-ab.tmp").write_text("half a file")
        assert (tmp_path / LOCK_FILE).exists()
        with RunLock(tmp_path):
            assert [p.name for p in tmp_path.iterdir()] == [LOCK_FILE], "what the dead one left is swept"


def test_only_one_of_many_takes_a_stale_lock(tmp_path: Path) -> None:
    dead = {
        "pid": 2**22 + 1,
        "started": "1",
        "host": locks._this_process().host,
        "machine": locks._machine(),
        "since": "x",
    }
    (tmp_path / LOCK_FILE).write_text(json.dumps(dead))
    winners, refused, together = [], [], threading.Barrier(8)
    done = threading.Event()

    def contend() -> None:
        together.wait()
        try:
            with RunLock(tmp_path):
                winners.append(1)
                done.wait()
        except RunDirectoryError:
            refused.append(1)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(winners) + len(refused) < 8:
        time.sleep(0.001)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(winners), len(refused)) == (1, 7)


def test_a_reused_pid_is_not_the_holder(tmp_path: Path) -> None:
    me = locks._this_process()
    if not me.machine:
        pytest.skip("no /proc here")
    record = {"pid": os.getpid(), "started": me.started + "0", "host": me.host, "machine": me.machine, "since": "x"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(record))
    assert read_holder(tmp_path) is None
    (tmp_path / LOCK_FILE).write_text(json.dumps({**record, "started": me.started}))
    assert read_holder(tmp_path) is not None


def test_another_machine_counts_while_it_renews(tmp_path: Path) -> None:
    lock = tmp_path / LOCK_FILE
    lock.write_text(json.dumps({"pid": 1, "started": "1", "host": "elsewhere", "machine": "other", "since": "x"}))
    with pytest.raises(RunDirectoryError, match="process 1 on elsewhere"), RunLock(tmp_path):
        pass
    now = time.time()
    for age in (STALE_SECONDS + 5, -STALE_SECONDS - 5):  # silent too long, or a clock that jumped
        os.utime(lock, (now - age, now - age))
        assert read_holder(tmp_path) is None
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("jump", [-400, 400], ids=lambda days: f"{days} days")
def test_a_clock_that_jumps_neither_breaks_nor_eternalises_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    if not locks._machine():
        pytest.skip("no /proc here")
    before = time.time()
    with other_process(tmp_path) as (worker, said):
        assert said == "locked"
        monkeypatch.setattr(locks.time, "time", lambda: before + jump * 86_400)
        with pytest.raises(RunDirectoryError, match=f"process {worker.pid} on "), RunLock(tmp_path):
            pass
    assert (tmp_path / LOCK_FILE).exists()
    with RunLock(tmp_path):  # its holder is dead, at any time of day
        pass


def test_a_holder_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.001)
    with RunLock(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (0, 0))
        while (tmp_path / LOCK_FILE).stat().st_mtime == 0:
            time.sleep(0.001)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": 1}', '{"pid":"x","started":"","host":"","machine":"","since":""}']
)
def test_unreadable_locks_are_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    assert read_holder(tmp_path) is None
    with RunLock(tmp_path):
        pass


def test_a_lock_taken_over_is_not_removed_by_its_old_holder(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / LOCK_FILE).write_text('{"pid": 1, "started": "1", "host": "h", "machine": "m", "since": "x"}')
    assert (tmp_path / LOCK_FILE).exists()


def test_errors_release_and_refusals_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with failing("fsync", errno.EROFS), pytest.raises(RunDirectoryError, match="cannot write"), RunLock(tmp_path):
        pass
    with pytest.raises(RunDirectoryError, match="cannot open"), RunLock(tmp_path / "absent"):
        pass


def test_without_proc_the_pid_and_the_age_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_machine", lambda: "")
    host, lock = locks._this_process().host, tmp_path / LOCK_FILE
    for pid, alive in [(os.getpid(), True), (2**22 + 1, False)]:
        lock.write_text(json.dumps({"pid": pid, "started": "", "host": host, "machine": "", "since": "x"}))
        assert (read_holder(tmp_path) is not None) == alive
