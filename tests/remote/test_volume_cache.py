"""The caches of containers on a volume: one call builds, the others wait, and each takes what it looks for alone."""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emergence.data import cache
from emergence.data.cache import building, find
from emergence.remote import cache_claims, kernels
from emergence.remote.cache_claims import SharedWork, shared
from emergence.remote.calls import Look
from emergence.remote.volume_cache import VolumeCache
from emergence.spec.experiment import ExperimentSpec
from tests.remote.test_remote import Table


class Calls:
    """Containers, each with a disk and a view of the volume that is renewed by a reload."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.committed = folder, folder / "committed"
        self.committed.mkdir(parents=True)
        self.going: set[str] = set()
        self.built: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def cache_of(self, call: str) -> SharedWork:
        local, view = self.folder / call / "cache", self.folder / call / "volume"
        self.going.add(call)

        def commit() -> None:
            with self._lock:
                shutil.copytree(view, self.committed, dirs_exist_ok=True)

        def reload() -> None:
            with self._lock:
                shutil.copytree(self.committed, view, dirs_exist_ok=True)

        reload()
        return SharedWork(local, view, call, commit, reload)

    def look_at(self, call: str) -> Look:
        return Look("going") if call in self.going else Look("ended", {"error": "gone"})

    def derive(self, mine: SharedWork, name: str, build: Callable[[Path], None]) -> None:
        folder = mine.local / name
        mine.bring(folder)
        if not folder.is_dir():
            self.built.append((mine.call, name))
            with building(folder) as temporary:
                build(temporary)
            mine.keep(folder)


def build(temporary: Path) -> None:
    time.sleep(0.1)
    (temporary / "tokens").write_text("tokens")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    world = Calls(tmp_path)
    monkeypatch.setattr(cache_claims, "claims", Table())
    monkeypatch.setattr(cache_claims, "look_at", world.look_at)
    monkeypatch.setattr(cache_claims, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(cache, "_elsewhere", None)
    return world


def test_of_ten_calls_one_builds_and_the_others_take_it(calls: Calls) -> None:
    caches = [calls.cache_of(f"fc-{number}") for number in range(10)]

    def prepare(mine: SharedWork) -> None:
        for name in ("hub/text", "streams/abc"):
            calls.derive(mine, name, build)

    threads = [threading.Thread(target=prepare, args=(mine,)) for mine in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for _, name in calls.built) == ["hub/text", "streams/abc"]
    assert all((mine.local / "streams" / "abc" / "tokens").read_text() == "tokens" for mine in caches)
    assert cache_claims.claims == {}


@pytest.mark.parametrize("how", ["ended", "gave it back", "too slow"])
def test_nobody_waits_for_ever(calls: Calls, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    first, second = calls.cache_of("fc-1"), calls.cache_of("fc-2")
    first.bring(first.local / "streams" / "abc")  # it is to build this now
    if how == "ended":
        calls.going.discard("fc-1")
    elif how == "gave it back":
        threading.Timer(0.2, first.close).start()
    else:
        monkeypatch.setattr(cache_claims, "LONGEST_WAIT", 0.2)
    calls.derive(second, "streams/abc", build)
    assert calls.built == [("fc-2", "streams/abc")]
    assert cache_claims.claims == ({"streams/abc": "fc-1"} if how == "too slow" else {})


def test_an_attempt_that_starts_again_has_its_claim_still(calls: Calls) -> None:
    calls.cache_of("fc-1").bring(calls.folder / "fc-1" / "cache" / "streams" / "abc")
    calls.derive(calls.cache_of("fc-1"), "streams/abc", build)
    assert calls.built == [("fc-1", "streams/abc")] and cache_claims.claims == {}


def test_what_is_built_in_a_shared_cache_is_kept_and_found(calls: Calls) -> None:
    first, second = calls.cache_of("fc-1"), calls.cache_of("fc-2")
    folder = first.local / "streams" / "abc"
    with shared(first):
        assert not find(folder)
        with building(folder) as temporary:
            build(temporary)
        shutil.rmtree(folder)
        assert find(folder), "it is on the volume"
        (folder / "tokens").write_text("damaged")
        shutil.rmtree(folder)
        with building(folder) as temporary:  # the copy on the volume was of no use
            (temporary / "tokens").write_text("tokens again")
    with shared(second):
        assert find(second.local / "streams" / "abc") and not find(second.local / "streams" / "other")
    assert (second.local / "streams" / "abc" / "tokens").read_text() == "tokens again"
    assert not find(calls.folder / "fc-3" / "cache" / "streams" / "abc") and cache_claims.claims == {}


def test_the_workers_of_a_container_copy_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "volume" / "words" / "abc").mkdir(parents=True)
    copies: list[Path] = []

    def slowly(source: Path, target: Path) -> None:
        copies.append(target)
        time.sleep(0.1)
        shutil.copytree(source, target)

    monkeypatch.setattr("emergence.remote.volume_cache.copy_folder", slowly)
    mine = VolumeCache(tmp_path / "cache", tmp_path / "volume")
    workers = [threading.Thread(target=mine.bring, args=(tmp_path / "cache" / "words" / "abc",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(copies) == 1


# Compiled kernels ---------------------------------------------------------------------------------------


def compiled(folder: Path) -> Path:
    """What Triton leaves: two kernels, a launcher for the host, and something half-made."""
    for name, files in {
        "ABC": ("add.cubin", "add.json", "__grp__add.json", "add.ttir", "lock"),
        "ABD": ("mul.cubin", "mul.json", "mul.ptx"),
        "HOST": ("__triton_launcher.cpython-311-x86_64-linux-gnu.so",),
        "MIXED": ("sub.cubin", "sub.so"),
        "HALF": ("sub.json",),
    }.items():
        for file in files:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_bytes(file.encode())
    (folder / "ABD" / "tmp.pid_1_2").mkdir()
    return folder


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_kernels_come_back_and_nothing_that_the_host_would_run(tmp_path: Path) -> None:
    triton, archive = compiled(tmp_path / "triton"), tmp_path / "volume" / "one.kernels"
    assert kernels.keep(triton, archive, set())
    found = kernels.bring(archive, tmp_path / "again")
    assert found == {"ABC"}
    assert below(tmp_path / "again") == {"ABC/add.cubin", "ABC/add.json", "ABC/__grp__add.json", "ABC/add.ttir"}
    assert not kernels.keep(tmp_path / "again", archive, found), "nothing is new"
    (triton / "ABD" / "tmp.pid_1_2").rmdir()
    assert kernels.keep(triton, archive, found)
    assert kernels.bring(archive, tmp_path / "third") == {"ABC", "ABD"}


def test_a_damaged_archive_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tmp_path / "one.kernels"
    kernels.keep(compiled(tmp_path / "triton"), archive, set())
    whole = archive.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    with caplog.at_level(logging.WARNING):
        for damaged in (b"", b"\n", whole[:-9], whole[:64], flipped, b"\xff" * 70, whole + b"x", packed("../out.json")):
            archive.write_bytes(damaged)
            assert kernels.bring(archive, tmp_path / "again") == set(), damaged[:80]
            assert not (tmp_path / "again").exists()
        for name in ("A/x.so", "A/x.pkl", "/A/x.json", "A/B/x.json", "x.json", "A/.json"):
            archive.write_bytes(packed(name))
            assert kernels.bring(archive, tmp_path / "again") == set(), name
    assert not (tmp_path / "out.json").exists() and caplog.text.count("compiled anew") == 14
    archive.unlink()
    archive.mkdir()
    assert kernels.bring(archive, tmp_path / "again") == set()
    assert not kernels.keep(tmp_path / "triton", archive, set())


def packed(name: str) -> bytes:
    """An archive with its seal in order and a file that has no place in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("A/add.cubin", "code")
        archive.writestr(name, "code")
    return hashlib.sha256(buffer.getvalue()).hexdigest().encode() + b"\n" + buffer.getvalue()


def test_runs_that_compile_the_same_share_an_archive() -> None:
    def name(gpu: str = "A10G", **flags: Any) -> str:
        return kernels.archive_name(ExperimentSpec.from_flags(config_name="debug", **flags), gpu)

    assert name() == name(seed=3) == name("A10G:4") == name(freeze_llm=True) == name(pretrain_data="wiki+nq")
    changed = (name("H100!"), name(set_values=("model.n_layers=3",)), name(set_values=("pretrain.batch_size=3",)))
    assert len({name(), *changed}) == 4
