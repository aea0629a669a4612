"""Network routes against stand-ins: tables in the hub's recorded shapes, and a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from emergence.data import hub
from emergence.data.hub import HUB_DATA, ArchiveRoute, FilesRoute, HubData, HubError, HubRoute, fetch
from emergence.data.nq import load_nq_path
from emergence.data.qa_load import load_qa_path
from emergence.data.text import load_text_path
from emergence.errors import UsageError

SPLITS = ("train", "validation", "test")
QA_TEXT = "WIKI1_{n}\t1\nIt rained on Monday .\n1\trained\t1\nwhen\tdid\tit\train\t_\t_\t_\t?\ton Monday\n\n"


class Table:
    """The part of ``datasets.Dataset`` that a route uses."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    @property
    def column_names(self) -> list[str]:
        return list(self.rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def select(self, numbers: list[int]) -> Table:
        return Table([self.rows[number] for number in numbers])

    def select_columns(self, names: list[str]) -> Table:
        return Table([{name: row[name] for name in names} for row in self.rows])

    def to_parquet(self, path: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(self.rows), path)


class Hub:
    """Stands in for ``datasets.load_dataset`` with tables by repository; remembers the calls."""

    def __init__(self, tables: Mapping[str, Mapping[str, Table]]) -> None:
        self.tables = tables
        self.calls: list[tuple[str, str | None, str | None, str | None]] = []

    def __call__(
        self, repository: str, name: str | None, *, data_dir: str | None, revision: str | None, cache_dir: str | None
    ) -> Mapping[str, Table]:
        self.calls.append((repository, name, data_dir, revision))
        if repository not in self.tables:
            raise RuntimeError(f"Dataset scripts are no longer supported,\nbut found {repository}.py")
        return self.tables[repository]


def qasrl_rows(split: str, count: int, prompts: int = 1) -> Table:
    """Rows of QA-SRL 1.0 on the hub; with ``prompts`` as promptsource repeats them."""
    rows = []
    for number in range(count):
        row = {
            "sentence": f"It rained on Monday in {split} {number} .",
            "sent_id": f"WIKI1_{split}_{number}",
            "predicate_idx": 1,
            "predicate": "rained",
            "question": ["when", "did", "it", "rain", "_", "_", "_", "?"],
            "answers": ["on Monday"],
        }
        prompted = {"template": "...", "rendered_input": "...", "rendered_output": "on Monday"}
        rows += [row | {"template_name": f"prompt {p}"} | prompted for p in range(prompts)] if prompts > 1 else [row]
    return Table(rows)


def shrunk(name: str, rows: Mapping[str, int | None]) -> dict[str, HubData]:
    """The real routes of a data set with other row counts, and without those that need the network."""
    wanted = HUB_DATA[name]
    routes = tuple(replace(route, rows=rows) for route in wanted.routes if isinstance(route, HubRoute))
    return {name: replace(wanted, routes=routes)}


QASRL = shrunk("qasrl", {"train": 6, "validation": 2, "test": 2})
PLAIN = {split: qasrl_rows(split, n) for split, n in zip(SPLITS, (6, 2, 2), strict=True)}
PROMPTED = {split: qasrl_rows(split, n, 7) for split, n in zip(SPLITS, (6, 2, 2), strict=True)}


# The routes themselves ----------------------------------------------------------------------------


def test_every_repository_has_a_namespace_and_every_data_set_a_cure() -> None:
    for name, data in HUB_DATA.items():
        assert data.flag in ("--pretrain-text", "--nq-data", "--qa-data", "--data") and data.accepts
        for route in data.routes:
            assert not isinstance(route, HubRoute) or route.repository.count("/") == 1, name
    assert [type(route) for route in HUB_DATA["qasrl"].routes] == [HubRoute, HubRoute, FilesRoute]


def test_first_route_with_its_revision(tmp_path: Path) -> None:
    loader = Hub({"luheng/qa_srl": PLAIN})
    folder, note = fetch("qasrl", tmp_path, loader=loader, data=QASRL)
    assert loader.calls == [("luheng/qa_srl", None, "plain_text", "refs/convert/parquet")]
    assert note["rows"] == {"train": 6, "validation": 2, "test": 2} and note["route"].startswith("hub:luheng/qa_srl")
    data = load_qa_path(folder)
    assert [len(data.splits[split]) for split in SPLITS] == [6, 2, 2]
    assert data.splits["train"][0].question == "When did it rain?"


def test_one_prompt_of_seven_is_kept(tmp_path: Path) -> None:
    loader = Hub({"marcov/qa_srl_promptsource": PROMPTED})
    folder, note = fetch("qasrl", tmp_path, loader=loader, data=QASRL)
    assert len(loader.calls) == 2 and note["route"] == "hub:marcov/qa_srl_promptsource"
    data = load_qa_path(folder)
    assert data.filtering["train"].to_dict()["total_raw_examples"] == 6


def test_wrong_counts_columns_and_splits_lead_to_the_next_route(tmp_path: Path) -> None:
    short = PLAIN | {"test": qasrl_rows("test", 1)}
    narrow = {split: Table([{"sentence": "x"}] * n) for split, n in zip(SPLITS, (6, 2, 2), strict=True)}
    uneven = PROMPTED | {"train": PROMPTED["train"].select(list(range(41)))}
    for tables, reason in (
        (short, "test has 1 rows, not 2"),
        (narrow, "train lacks the columns sent_id"),
        ({"train": PLAIN["train"]}, "has no split validation, only train"),
    ):
        loader = Hub({"luheng/qa_srl": tables, "marcov/qa_srl_promptsource": uneven})
        with pytest.raises(HubError) as caught:
            fetch("qasrl", tmp_path, loader=loader, data=QASRL)
        message = str(caught.value)
        assert reason in message and "one of 7 prompts has 6 of 41 rows" in message and "\n" not in message
        assert "--qa-data PATH" in message and isinstance(caught.value, UsageError)
    assert list((tmp_path / "hub").iterdir()) == []


def test_fetched_once_and_again_only_when_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = Hub({"luheng/qa_srl": PLAIN})
    folder, note = fetch("qasrl", tmp_path, loader=loader, data=QASRL)
    assert fetch("qasrl", tmp_path, loader=Hub({}), data=QASRL) == (folder, note) and not caplog.records
    (folder / "train.parquet").write_bytes(b"PAR1")
    assert fetch("qasrl", tmp_path, loader=loader, data=QASRL) == (folder, note)
    assert len(loader.calls) == 2 and len(caplog.records) == 1


def test_the_real_library_gives_tables_that_a_route_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    for split, table in PROMPTED.items():
        table.to_parquet(str(tmp_path / f"{split}.parquet"))
    files = {split: str(tmp_path / f"{split}.parquet") for split in SPLITS}

    def loader(repository: str, name: str | None, **options: Any) -> Any:
        return datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "datasets"))

    only = {"qasrl": replace(QASRL["qasrl"], routes=QASRL["qasrl"].routes[1:])}
    folder, _ = fetch("qasrl", tmp_path, loader=loader, data=only)
    assert load_qa_path(folder).filtering["train"].to_dict()["total_raw_examples"] == 6


def test_wikitext_and_nq_open_as_the_hub_has_them(tmp_path: Path) -> None:
    lines = {split: ["", f" = {split} = \n", "", " Some role @-@ text , here . \n"] for split in SPLITS}
    pairs = {split: [{"question": f"who {split}", "answer": ["a", "b"]}] * 2 for split in SPLITS[:2]}
    loader = Hub(
        {
            "Salesforce/wikitext": {split: Table([{"text": line} for line in lines[split]]) for split in SPLITS},
            "google-research-datasets/nq_open": {split: Table(rows) for split, rows in pairs.items()},
        }
    )
    text, _ = fetch("wikitext-103", tmp_path, loader=loader, data=shrunk("wikitext-103", dict.fromkeys(SPLITS, 4)))
    assert [document.text for document in load_text_path(text, 0).documents("test")] == [
        "test\n\nSome role-text, here."
    ]
    nq, _ = fetch("nq-open", tmp_path, loader=loader, data=shrunk("nq-open", dict.fromkeys(SPLITS[:2], 2)))
    assert load_nq_path(nq, 0).splits["train"][0].answers == ("a", "b")


# Files from a server ------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    root = tmp_path / "served"
    root.mkdir()
    running = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", root
    running.shutdown()
    thread.join()
    running.server_close()


def served(root: Path, name: str, content: bytes) -> tuple[int, str]:
    (root / name).write_bytes(content)
    return len(content), hashlib.sha256(content).hexdigest()


def test_original_files_are_checked_by_sha256(tmp_path: Path, server: tuple[str, Path]) -> None:
    url, root = server
    names = ("wiki1.train.qa", "wiki1.dev.qa", "wiki1.test.qa")
    files = {name: served(root, name, QA_TEXT.format(n=n).encode()) for n, name in enumerate(names)}
    route = FilesRoute(url, files)
    data = {"qasrl": HubData((HubRoute("no/such", (), {}), route), "--qa-data", "files")}
    folder, note = fetch("qasrl", tmp_path / "a", loader=Hub({}), data=data)
    assert note["route"] == f"files:{url}" and [len(x) for x in load_qa_path(folder).splits.values()] == [1, 1, 1]
    (root / names[1]).write_bytes(b"x" * files[names[1]][0])
    with pytest.raises(HubError, match=r"wiki1\.dev\.qa has the sha256"):
        fetch("qasrl", tmp_path / "b", data={"qasrl": HubData((route,), "--qa-data", "files")})
    (root / names[1]).write_bytes(b"x" * 10_000)
    with pytest.raises(HubError, match="larger than"):
        fetch("qasrl", tmp_path / "b", data={"qasrl": HubData((route,), "--qa-data", "files")})
    (root / names[1]).unlink()
    with pytest.raises(HubError, match="404"):
        fetch("qasrl", tmp_path / "b", data={"qasrl": HubData((route,), "--qa-data", "files")})


def test_members_of_an_archive(tmp_path: Path, server: tuple[str, Path]) -> None:
    url, root = server
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("bank/orig/train.jsonl.gz", "bank/dense/train.jsonl.gz", "../outside"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    served(root, "bank.tar", packed.getvalue())
    route = ArchiveRoute(f"{url}/bank.tar", {"/orig/train.jsonl.gz": "train.jsonl.gz"}, most_bytes=1 << 20)
    folder, _ = fetch("bank", tmp_path, data={"bank": HubData((route,), "--qa-data", "files")})
    assert (folder / "train.jsonl.gz").read_bytes() == b"bank/orig/train.jsonl.gz"
    assert sorted(path.name for path in folder.iterdir()) == ["route.json", "train.jsonl.gz"]
    missing = replace(route, members={"/orig/dev.jsonl.gz": "dev.jsonl.gz"})
    with pytest.raises(HubError, match="archive lacks"):
        fetch("bank2", tmp_path, data={"bank2": HubData((missing,), "--qa-data", "files")})


# No network ---------------------------------------------------------------------------------------


def test_without_a_network_it_is_said_at_once_and_in_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "emergence")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    wanted = HUB_DATA["qasrl"]
    data = {"qasrl": replace(wanted, routes=(*wanted.routes[:2], FilesRoute("http://127.0.0.1:9", {"x": (1, "")})))}
    monkeypatch.setattr(
        hub, "_load_dataset", lambda *a, **k: pytest.fail("the hub client was called without a network")
    )
    with pytest.raises(HubError) as caught:
        fetch("qasrl", tmp_path, data=data)
    message = str(caught.value)
    for part in ("could not fetch qasrl (no network: ", "refused", "--qa-data PATH"):
        assert part in message
    assert len(message) < 220, message
    assert all(route in caplog.text for route in ("luheng/qa_srl", "marcov/qa_srl_promptsource", "http://127.0.0.1:9"))


def test_offline_mode_asks_only_the_users_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen: list[Any] = []

    def load(repository: str, name: str | None, **options: Any) -> Mapping[str, Table]:
        seen.append(options["cache_dir"])
        return PLAIN

    monkeypatch.setattr(hub, "_load_dataset", load)
    fetch("qasrl", tmp_path, data=QASRL)
    assert seen == [None]


def test_a_missing_repository_is_reported_by_the_server(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    with pytest.raises(HubError, match="404"):
        fetch("qasrl", tmp_path, data=QASRL)
