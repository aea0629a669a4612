"""Data sets from the network, verified and kept as local files.

Hosts move and scripts stop running, so every data set has several routes, which are tried in order. What a route
brings is checked by columns and row counts, or by sha256. If all fail, one error names every route and the flag for a
local copy. Fetched data is written to the cache in formats that the readers know, and needs no network afterwards.
This is the only module that imports `datasets`, and it does so only to fetch.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from emergence.data.cache import building, find
from emergence.errors import DataError, RunDirectoryError
from emergence.files import sha256_file

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 15
_CHUNK = 1 << 20
_NOTE = "route.json"

#: ``datasets.load_dataset`` or a stand-in: ``(repository, name, *, data_dir, revision, cache_dir)`` to tables by split.
Loader = Callable[..., Mapping[str, Any]]


class HubError(DataError):
    """No route to a data set worked. The message has the reason of every route that answered, and the cure."""


class Route(Protocol):
    """One way to a data set."""

    @property
    def label(self) -> str:
        """What messages and provenance call the route."""
        ...

    def fetch(self, folder: Path, loader: Loader | None, scratch: Path) -> dict[str, Any]:
        """Write verified files into ``folder`` and return facts about them; after any exception the next is tried."""
        ...


@dataclass(frozen=True)
class HubRoute:
    """A data set on the Hugging Face hub, always as ``namespace/name``.

    Attributes:
        rows: The splits to keep, all of which must be there, with their exact numbers of rows (None: any number).
        columns: Columns to keep, all of which must be there.
        prompts_per_row: How many prompt templates the data set writes every original row in. One of them is kept.
    """

    repository: str
    columns: tuple[str, ...]
    rows: Mapping[str, int | None]
    config: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    prompts_per_row: int = 1

    @property
    def label(self) -> str:
        parts = [self.repository, self.config or self.data_dir or "", f"@{self.revision}" if self.revision else ""]
        return "hub:" + " ".join(part for part in parts if part)

    def fetch(self, folder: Path, loader: Loader | None, scratch: Path) -> dict[str, Any]:
        tables = self.load(loader, scratch)
        for split, table in tables.items():
            table.select_columns(list(self.columns)).to_parquet(str(folder / f"{split}.parquet"))
        return {"rows": {split: len(table) for split, table in tables.items()}, "revision": self.revision}

    def load(self, loader: Loader | None, scratch: Path) -> dict[str, Any]:
        """The tables of the splits to keep. Raises ``ValueError`` where one is not as it should be."""
        load = loader or _load_dataset
        # Offline, the user's own Hugging Face cache is the only place that could have it.
        cache = None if _is_offline() else str(scratch)
        tables = load(self.repository, self.config, data_dir=self.data_dir, revision=self.revision, cache_dir=cache)
        kept = {}
        for split, expected in self.rows.items():
            if split not in tables:
                raise ValueError(f"has no split {split}, only {', '.join(tables)}")
            table = self._one_prompt(tables[split])
            missing = [name for name in self.columns if name not in table.column_names]
            if missing:
                raise ValueError(f"{split} lacks the columns {', '.join(missing)}")
            if len(table) == 0 or (expected is not None and len(table) != expected):
                raise ValueError(f"{split} has {len(table)} rows, not {expected or 'any'}")
            kept[split] = table
        return kept

    def _one_prompt(self, table: Any) -> Any:
        if self.prompts_per_row == 1:
            return table
        names = table["template_name"]
        first = names[0]
        kept = [number for number, name in enumerate(names) if name == first]
        if len(kept) * self.prompts_per_row != len(table):
            raise ValueError(f"one of {self.prompts_per_row} prompts has {len(kept)} of {len(table)} rows")
        return table.select(kept)


@dataclass(frozen=True)
class HubConfigsRoute:
    """Several configurations of one data set on the hub, each of one split and kept as JSON lines under its name."""

    repository: str
    configs: tuple[str, ...]
    columns: tuple[str, ...]
    split: str
    rows: int

    @property
    def label(self) -> str:
        return f"hub:{self.repository} {self.configs[0]}..."

    def fetch(self, folder: Path, loader: Loader | None, scratch: Path) -> dict[str, Any]:
        for config in self.configs:
            route = HubRoute(self.repository, self.columns, {self.split: self.rows}, config=config)
            table = route.load(loader, scratch)[self.split]
            lines = (json.dumps(dict(row)) + "\n" for row in table.select_columns(list(self.columns)))
            (folder / f"{config}.jsonl").write_text("".join(lines), encoding="utf-8")
        return {"rows": dict.fromkeys(self.configs, self.rows)}


@dataclass(frozen=True)
class FilesRoute:
    """Plain files at a URL: ``{file name: (size, sha256)}``."""

    base_url: str
    files: Mapping[str, tuple[int, str]]

    @property
    def label(self) -> str:
        return f"files:{self.base_url}"

    def fetch(self, folder: Path, loader: Loader | None, scratch: Path) -> dict[str, Any]:
        for name, (size, sha256) in self.files.items():
            digest = _download(f"{self.base_url}/{name}", folder / name, most_bytes=size)
            if digest != sha256:
                raise ValueError(f"{name} has the sha256 {digest[:12]}..., not {sha256[:12]}...")
        return {}


@dataclass(frozen=True)
class ArchiveRoute:
    """Members of a tar archive, recognised by how their names end: ``{end of name: file name}``."""

    url: str
    members: Mapping[str, str]
    most_bytes: int

    @property
    def label(self) -> str:
        return f"archive:{self.url}"

    def fetch(self, folder: Path, loader: Loader | None, scratch: Path) -> dict[str, Any]:
        scratch.mkdir(parents=True, exist_ok=True)
        packed = scratch / PurePosixPath(self.url).name
        sha256 = _download(self.url, packed, self.most_bytes)
        with tarfile.open(packed) as archive:
            for member in archive:
                name = next((name for end, name in self.members.items() if member.name.endswith(end)), None)
                if name and member.isfile() and (source := archive.extractfile(member)):
                    with (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target, _CHUNK)
        missing = [end for end, name in self.members.items() if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"the archive lacks {', '.join(missing)}")
        return {"sha256": sha256}


@dataclass(frozen=True)
class HubData:
    """A data set's routes in the order they are tried, the flag for a local copy, and what that flag accepts.

    ``otherwise`` is what needs no network.
    """

    routes: tuple[Route, ...]
    flag: str
    accepts: str
    otherwise: str = "--data microworld"


#: The argument-structure paradigms of BLiMP, and its last commit.
_BLIMP = (
    "animate_subject_passive", "animate_subject_trans", "causative", "drop_argument", "inchoative", "intransitive",
    "passive_1", "passive_2", "transitive",
)  # fmt: skip
_BLIMP_COMMIT = "3e56b06fcabca9b30822fc66435fca6b1aa40bb1"
_QASRL_COLUMNS = ("sentence", "sent_id", "predicate_idx", "predicate", "question", "answers")
_QASRL_ROWS = {"train": 6414, "validation": 2183, "test": 2201}
_BANK_COLUMNS = ("sentence", "sent_id", "predicate_idx", "predicate", "question", "answers", "answer_ranges")

#: Revisions are those seen in published code. No revision of the conversion branch is known.
HUB_DATA: dict[str, HubData] = {
    "wikitext-103": HubData(
        (
            HubRoute(
                "Salesforce/wikitext",
                ("text",),
                {"train": 1_801_350, "validation": 3_760, "test": 4_358},
                config="wikitext-103-raw-v1",
                revision="b08601e04326c79dfdd32d625aee71d232d685c3",
            ),
        ),
        "--pretrain-text",
        "WikiText or any plain text",
    ),
    "nq-open": HubData(
        (
            HubRoute(
                "google-research-datasets/nq_open",
                ("question", "answer"),
                {"train": 87_925, "validation": 3_610},
                config="nq_open",
                revision="5dd9790a83002ad084ddeb7c420dc716852c6f28",
            ),
        ),
        "--nq-data",
        "NQ-open.train.jsonl",
    ),
    "squad": HubData(
        (
            HubRoute(
                "rajpurkar/squad",
                ("id", "title", "context", "question", "answers"),
                {"train": 87_599, "validation": 10_570},
                config="plain_text",
                revision="7b6d24c440a36b6815f21b70d25016731768db1f",
            ),
        ),
        "--qa-data",
        "SQuAD JSON",
    ),
    "qasrl": HubData(
        (
            HubRoute(
                "luheng/qa_srl", _QASRL_COLUMNS, _QASRL_ROWS, data_dir="plain_text", revision="refs/convert/parquet"
            ),
            HubRoute("marcov/qa_srl_promptsource", _QASRL_COLUMNS, _QASRL_ROWS, prompts_per_row=7),
            FilesRoute(
                "https://dada.cs.washington.edu/qasrl/data",
                {
                    "wiki1.train.qa": (646_763, "f927417e94e67b7ae17e33dd882989a5556d7ff37376f8bf5c78ece7d17a6c64"),
                    "wiki1.dev.qa": (222_666, "caa94beaaf22304422cdc1a2fd8732b1a47401c9555a81e1f4da81e0a7557a8b"),
                    "wiki1.test.qa": (218_300, "b43a998344fbd520955fb8f0f7b3691ace363daa8628552cf5cf5c8d84df6cca"),
                },
            ),
        ),
        "--qa-data",
        "QA-SRL .qa files",
    ),
    "qasrl-bank": HubData(
        (
            HubRoute(
                "biu-nlp/qa_srl2018",
                _BANK_COLUMNS,
                {"train": None, "validation": None, "test": None},
                data_dir="v2",
                revision="refs/convert/parquet",
            ),
            ArchiveRoute(
                "https://qasrl.org/data/qasrl-v2.tar",
                {f"/orig/{split}.jsonl.gz": f"{split}.jsonl.gz" for split in ("train", "dev", "test")},
                most_bytes=1 << 30,
            ),
        ),
        "--qa-data",
        "QA-SRL Bank 2.0 .jsonl.gz files",
    ),
    "blimp-argstructure": HubData(
        (
            HubConfigsRoute(
                "nyu-mll/blimp", _BLIMP, ("sentence_good", "sentence_bad", "UID", "pairID"), "train", rows=1000
            ),
            ArchiveRoute(
                f"https://github.com/alexwarstadt/blimp/archive/{_BLIMP_COMMIT}.tar.gz",
                {f"/data/{name}.jsonl": f"{name}.jsonl" for name in _BLIMP},
                most_bytes=1 << 28,
            ),
        ),
        "--data",
        "BLiMP .jsonl files",
        "--data microworld-roles",
    ),
}


def fetch(
    name: str, cache_dir: Path, *, loader: Loader | None = None, data: Mapping[str, HubData] = HUB_DATA
) -> tuple[Path, dict[str, Any]]:
    """A data set as a folder of local files, fetched at the first call.

    Args:
        name: A key of ``data``.
        cache_dir: Root of the cache.
        loader: Stands in for ``datasets.load_dataset``.
        data: The routes.

    Returns:
        The folder, and a note on the route that worked (route, date, rows, sha256 of every file).

    Raises:
        HubError: No route worked. RunDirectoryError: The system refused to write what was fetched.
    """
    folder = cache_dir / "hub" / name
    note = _complete(folder)
    if note is not None:
        return folder, note
    reasons, answered = [], False
    scratch = cache_dir / "hub" / f"{name}.download"
    for route in data[name].routes:
        try:
            with building(folder) as temporary:
                log.info("fetching %s: %s", name, route.label)
                _check_reachable(route, loader)
                note = {"name": name, "route": route.label, **route.fetch(temporary, loader, scratch)}
                note["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
                note["files"] = {file.name: _facts(file) for file in sorted(temporary.iterdir())}
                (temporary / _NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
        except RunDirectoryError:  # no room, no permission: the next route would fare no better
            raise
        except Exception as error:  # any failure of a route, whatever its library raises, means the next one
            reasons.append(f"{route.label}: {_one_line(error)}")
            answered = answered or not _is_no_answer(error)
            log.info("%s", reasons[-1])
            continue
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder, note
    wanted = data[name]
    why = "; ".join(reasons) if answered or not reasons else f"no network: {reasons[-1]}"
    raise HubError(
        f"could not fetch {name} ({why}): "
        f"give a local copy with {wanted.flag} PATH ({wanted.accepts}), or use {wanted.otherwise}"
    )


def _is_no_answer(error: Exception) -> bool:
    """Whether a route failed because nothing answered, so that all others at the same place would fail alike."""
    return isinstance(error, urllib.error.URLError | TimeoutError) and not isinstance(error, urllib.error.HTTPError)


def _complete(folder: Path) -> dict[str, Any] | None:
    """The note of a fetched folder, if all its files are there to the bit. A damaged folder is removed."""
    if not find(folder):
        return None
    try:
        note: dict[str, Any] = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        names = note["files"]
        if all(Path(name).name == name and _facts(folder / name) == facts for name, facts in names.items()):
            return note
        reason: object = "files that are not what was fetched"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error
    log.warning("%s: damaged (%s), fetching it again", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _facts(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def _load_dataset(repository: str, name: str | None, **options: Any) -> Mapping[str, Any]:
    import datasets

    tables: Mapping[str, Any] = datasets.load_dataset(repository, name, **options)
    return tables


def _is_offline() -> bool:
    """Whether the hub client's own switch keeps it off the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _check_reachable(route: Route, loader: Loader | None) -> None:
    """Fail within seconds without a network, where the hub client would retry for minutes."""
    if not isinstance(route, HubRoute | HubConfigsRoute) or loader is not None or _is_offline():
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(f"{endpoint}/api/datasets/{route.repository}", timeout=_TIMEOUT_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise


def _download(url: str, path: Path, most_bytes: int) -> str:
    """Fetch a URL to a file and return its sha256. More than ``most_bytes`` raise ``ValueError``."""
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, path.open("wb") as file:
        while chunk := response.read(_CHUNK):
            size += len(chunk)
            if size > most_bytes:
                raise ValueError(f"{url} is larger than {most_bytes} bytes")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _one_line(error: Exception, length: int = 160) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[: length - 3] + "..."
