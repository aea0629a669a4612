"""Atomic writing, strict JSON, seals."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emergence import files
from emergence.errors import DataError, EmergenceError, RunDirectoryError
from emergence.experiment.history import FileRecorder
from emergence.experiment.manifest import MANIFEST_FILE, read_manifest
from emergence.files import (
    append_line,
    atomic_writer,
    drop_torn_line,
    folder_files,
    is_laid_out,
    parse_json,
    parse_json_lines,
    plain,
    read_json,
    read_json_lines,
    read_sealed,
    seal,
    sha256_file,
    sha256_text,
    sweep_temporary,
    sync_file,
    to_json,
    unseal,
    write_atomic,
    write_json_atomic,
    write_json_lines_atomic,
)
from emergence.training.checkpoint import load_weights
from tests.fault_injection import Killed, counted, failing, killed_at

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_leaves_the_old_file_or_the_new(tmp_path: Path, after: bool) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with counted() as whole:
        write_atomic(path, "old")
    assert whole.count >= 3  # fsync, rename, fsync of the folder
    seen = set()
    for n in range(1, whole.count + 1):
        write_atomic(path, "old")
        with pytest.raises(Killed), killed_at(n, after=after):
            write_atomic(path, "new")
        seen.add(path.read_text())
        sweep_temporary(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert seen == {"old", "new"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_refused_write_names_file_and_bytes_and_keeps_the_old(tmp_path: Path, call: str, number: int) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with failing(call, number), pytest.raises(RunDirectoryError) as caught:
        write_atomic(path, "x" * 12345)
    message = str(caught.value)
    assert str(path) in message and "12,345 bytes" in message and "\n" not in message
    assert ("make room" in message) == (number == errno.ENOSPC)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_writer(tmp_path / "file") as handle:
        handle.write(b"half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunDirectoryError, match="cannot write"):
        write_atomic(tmp_path / "absent" / "file", "x")


def test_lines_of_unknown_number_say_how_many_bytes_at_least(tmp_path: Path) -> None:
    with failing("fsync", errno.ENOSPC), pytest.raises(RunDirectoryError, match="it needs 24 bytes"):
        write_json_lines_atomic(tmp_path / "rows", [{"a": 1}, {"b": 2}, {"c": 3}])

    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunDirectoryError, match=r"rows: No space left .* at least 8 bytes"):
        write_json_lines_atomic(tmp_path / "rows", rows())
    assert not list(tmp_path.iterdir())


def test_append_takes_back_what_it_could_not_finish(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    with failing("write", errno.ENOSPC), pytest.raises(RunDirectoryError, match="4 bytes"):
        append_line(path, "two")
    with failing("fsync", errno.ENOSPC), pytest.raises(RunDirectoryError, match="4 bytes"):
        sync_file(path)
    append_line(path, "three")
    assert path.read_text() == "one\nthree\n"


def test_torn_last_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for content, left in [(b"", b""), (b"{}\n", b"{}\n"), (b'{}\n{"a', b"{}\n"), (b'{"a', b"")]:
        path.write_bytes(content)
        drop_torn_line(path)
        assert path.read_bytes() == left
    drop_torn_line(tmp_path / "absent")


def test_json_is_strict_both_ways(tmp_path: Path) -> None:
    values = {"a": np.float32(0.5), "b": np.arange(3), "c": (1, math.nan, -math.inf), "d": np.int64(3), 4: Path("x")}
    assert json.loads(to_json(values)) == {"a": 0.5, "b": [0, 1, 2], "c": [1, None, None], "d": 3, "4": "x"}
    for bad in (object(), {1.5: 2}, {"k": {1, 2}}):
        with pytest.raises(TypeError):
            to_json(bad)
    path = tmp_path / "x.json"
    for text, reason in [
        ('{"a": NaN}', "NaN"), ("[Infinity]", "Infinity"), ('{"a": 1, "a": 2}', "twice"), ("", "empty"),
        ('{"a": ', "line 1"), ("[" * 100_000, "strict JSON"), ("1" * 10_000, "strict JSON"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=reason) as caught:
            read_json(path, DataError)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunDirectoryError, match="UTF-8"):
        read_json(path)
    with pytest.raises(RunDirectoryError, match="no such file"):
        read_json(tmp_path / "absent")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        read_json(tmp_path)


@settings(max_examples=50)
@given(json_values)
def test_json_round_trips(value: object) -> None:
    assert json.loads(to_json(value)) == value == plain(value)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"a": 1, "s": "line\nbreak \u2028 \ud800"}, {}]
    assert write_json_lines_atomic(path, rows) == 2
    rows[0]["s"] = "line\nbreak \u2028 \\ud800"  # what no encoding can write is spelled out
    assert read_json_lines(path) == rows
    path.write_bytes(path.read_bytes() + b'{"torn": ')
    assert read_json_lines(path) == rows
    for content, where in [
        (b'{}\n[1]\n{"a\n', ":2: not a JSON object"), (b"{}\n{]\n\xff\n", ":2: not JSON"),
        (b'{}\n{}\n{"a\n', ":3"), (b"{}\n\xff\n", ":2: damaged"),
        (b'{"a": 1,\n"b": 2}\n', ":1: not JSON"), (b"{}, {}\n", ":1: not JSON"), (b"{}\n\n{}\n", ":2: empty"),
        (b'{}\n{"a": 1, "a": 2}\n', ":2: .*twice"), (b'{}\n{"a": NaN}\n', ":2: .*NaN"),
        (b'{}\n{"a": 1e999}\n', ":2: .*too large"), (b'{}\n{"a": "\\ud800"}\n', ":2: .*half a character"),
        (b'{}\n{"a": ' + b"[" * 65 + b"]" * 65 + b"}\n", ":2: .*nested"),
        (b"{}\n" + b"[" * 100_000 + b"\n", ":2: .*nested"),
    ]:  # fmt: skip
        with pytest.raises(RunDirectoryError, match=where):
            parse_json_lines(content, "x.jsonl")
    assert parse_json_lines(b' {"a": 1}\t\r\n{"b": "e+000 \xc3\xa9"}\n\xff', "x") == [{"a": 1}, {"b": "e+000 \u00e9"}]
    with pytest.raises(RunDirectoryError, match="no such file"):
        read_json_lines(tmp_path / "absent")


def _nested(depth: int, opens: str = "[", closes: str = "]") -> str:
    return opens * depth + "1" + closes * depth


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *((_nested(depth), "nested more than 64 levels") for depth in (65, 450, 1_000, 100_000)),
        (_nested(300, '{"a":', "}"), "nested more than 64 levels"),
        (_nested(200, '[{"a":', "}]"), "nested more than 64 levels"),
        (f'{{"a": 1{"0" * 400}}}', "more than 64 bits"),
        (f'{{"a": 1{"0" * 5_000}}}', "not strict JSON"),
        *(
            (text, "too large")
            for text in ('{"a": -1e400}', "[1,1e400]", "[1e400]", '{"a":1e400}', "[\n1e400]", "1e400")
        ),
        ('{"a": 1E+999}', "too large"),
        (f'{{"é": [0.{"1" * 30}, 1.5e-300, 1{"0" * 30}]}}', "more than 64 bits"),
        (f"[9{'9' * 18}]", "more than 64 bits"),
        (f"[1{'0' * 400}.5]", "too large"),
        ('["\\ud800"]', "half a character"),
        ('{"\\uDFFF": 1}', "half a character"),
    ],
)
def test_json_that_would_end_its_reader(text: str, says: str) -> None:
    with pytest.raises(RunDirectoryError, match=says):
        parse_json(text, "x.json")


def test_json_at_its_limits() -> None:
    for text in (
        _nested(64),
        f"[{2**63 - 1}]",
        '["\\ud83e\\udd84"]',
        '["12345678901234567890"]',
        "[1.5e300]",
        "[1e-400]",
    ):
        assert parse_json(text, "x.json") == json.loads(text)


def test_a_file_far_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_JSON_BYTES", 10)
    (tmp_path / "x.json").write_text("[1, 2, 3, 4]")
    with pytest.raises(RunDirectoryError, match="more than 10 bytes"):
        read_json(tmp_path / "x.json")


def test_a_pipe_or_a_device_in_place_of_a_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    readers: list[Callable[[Path], object]] = [
        read_json, read_sealed, read_json_lines, sha256_file, drop_torn_line, load_weights,
        lambda path: FileRecorder(path, tmp_path / "timings.jsonl"),
    ]  # fmt: skip
    for name in ("pipe", "endless"):
        for read in readers:
            with pytest.raises(EmergenceError, match=f"{name}: a pipe or a device, and no file: remove it"):
                read(tmp_path / name)
    (tmp_path / MANIFEST_FILE).symlink_to("pipe")
    with pytest.raises(RunDirectoryError, match="a pipe or a device"):
        read_manifest(tmp_path)


@settings(max_examples=50)
@given(st.dictionaries(st.text().filter(lambda key: key != "sha256"), json_values, max_size=4))
def test_seals_survive_any_formatting(content: dict[str, object]) -> None:
    sealed = seal(content)
    assert unseal(json.loads(json.dumps(sealed, indent=7, sort_keys=True)), "x") == content


def test_every_flipped_bit_of_sealed_json_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    content = {"f1": 0.25, "names": ["a", None], "deep": {"seed": 12, "ok": True}}
    write_json_atomic(path, seal(content))
    whole = path.read_bytes()
    assert unseal(read_json(path), "x") == content
    damages = [whole[:size] for size in range(len(whole) - 1)]  # the last byte is a newline that holds nothing
    damages += [
        whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in range(len(whole) - 1) for bit in range(8)
    ]
    for damaged in damages:
        with pytest.raises((RunDirectoryError, UnicodeDecodeError)):
            unseal(parse_json(damaged.decode(), "x"), "x")
    for other in (None, [], {}, {"f1": 0.25}):
        with pytest.raises(RunDirectoryError, match="has no 'sha256'"):
            unseal(other, "x")


def test_a_sealed_file_is_read_only_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json_atomic(path, seal({"f1": 0.25}))
    assert read_sealed(path) == {"f1": 0.25}
    write_json_atomic(path, {**seal({"f1": 0.25}), "f1": 0.75})  # well-formed, under the seal of another content
    with pytest.raises(RunDirectoryError, match="does not match its 'sha256'"):
        read_sealed(path)
    path.write_text(json.dumps(seal({"f1": 0.25})))  # the sealed content in other bytes
    with pytest.raises(RunDirectoryError, match="not the bytes that were written"):
        read_sealed(path)


def test_folder_files_and_digests(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("abc")
    (tmp_path / "a").write_text("abc")
    (tmp_path / ".a.1-00.tmp").write_text("half")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert folder_files(tmp_path) == [tmp_path / "a", tmp_path / "b" / "c"]
    assert (
        sha256_file(tmp_path / "a")
        == sha256_text("abc")
        == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    )


@pytest.mark.parametrize("place", ["null", "pipe"])
def test_a_device_or_pipe_is_never_replaced(place: str, tmp_path: Path) -> None:
    target = Path(os.devnull)
    if place == "pipe":
        target = tmp_path / "pipe"
        os.mkfifo(target)
    with pytest.raises(RunDirectoryError, match="a device or a pipe, which is not replaced"):
        write_atomic(target, "x")
    assert target.exists() and not target.is_file() and not list(tmp_path.glob(".*"))


def test_half_a_character_is_compared_as_a_whole() -> None:
    """Python writes it back as it was read, :func:`to_json` spells it out."""
    text = '{\n  "\\ud800 \\udc00": null\n}\n'
    assert not is_laid_out(json.loads(text), text)


@given(json_values, st.data())
def test_a_layout_counts_as_written_only_if_it_is(value: object, data: st.DataObject) -> None:
    """The quick look may miss a layout that is right, and never takes one that is not."""
    text = to_json(value, indent=2) + "\n"
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        if data.draw(st.booleans()):
            text = text[:at] + data.draw(st.sampled_from([" ", "\n", "  ", "\n  ", "\n    "])) + text[at:]
        else:
            spaces = [i for i, character in enumerate(text) if character in " \n"]
            at = data.draw(st.sampled_from(spaces))
            text = text[:at] + text[at + 1 :]
        if not text.strip() or text.count("\n") == 0:
            break
    try:
        found = json.loads(text)
    except ValueError:
        return
    assert not is_laid_out(found, text) or to_json(found, indent=2) + "\n" == text


@pytest.mark.parametrize(
    "text",
    [
        "{\n  \n}\n",
        "{\n}\n",
        "[1]\n",
        "[\n1\n]\n",
        '{\n  "a": [1]\n}\n',
        '{\n  "a": 1\n}',
        '{\n  "a": 1\n}\n\n',
        "1 \n",
    ],
)
def test_layouts_that_nearly_are_as_written(text: str) -> None:
    assert not is_laid_out(json.loads(text), text)


def test_a_result_needs_no_slow_look_at_its_layout() -> None:
    content = {"a": [1, 2.5e-07, {"b": []}], "of": {"none": {}, "words": ["{}", "é"]}, "c": None}
    assert is_laid_out(content, to_json(content, indent=2) + "\n")


_ROWS = [b'{"id":"a","f1":0.5,"part":{"x":[1,2]}}', b'{"id":"b","f1":1e-05,"part":{"x":[]}}', b"{}"]


@given(st.data())
def test_lines_parsed_together_are_the_lines_parsed_alone(data: st.DataObject) -> None:
    content = b"\n".join(data.draw(st.lists(st.sampled_from(_ROWS), max_size=4))) + b"\n"
    odd = [
        b"\n",
        b" ",
        b",",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\xff",
        b"NaN",
        b"1e999",
        b"9" * 20,
        b"1" * 19,
        b"-0",
        b".0",
        b"1E5",
        b"0.00001",
        b'"id":1,',
        b"\\ud800",
        b"\\u00e9",
        "é".encode(),
    ]
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(st.sampled_from(odd)) + content[at + data.draw(st.integers(0, 2)) :]

    assert_parsed_as_alone(content)


def assert_parsed_as_alone(content: bytes) -> None:
    def outcome() -> str:
        try:
            return repr(parse_json_lines(content, "file"))  # 1, 1.0 and true are equal, and not the same
        except RunDirectoryError as error:
            return str(error)

    together = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_ordinary_lines", lambda _: None)
        assert together == outcome()


@pytest.mark.parametrize(
    "number", [str(sign * 2**power - less) for power in (53, 63, 64) for sign in (1, -1) for less in (0, 1)]
)
def test_whole_numbers_of_lines_are_what_python_reads(number: str) -> None:
    assert_parsed_as_alone(f'{{"a":{number}}}\n'.encode())


@pytest.mark.parametrize(
    ("row", "is_refused"),
    [
        (rb'{"a":1,"a":2}', True),
        (rb'{"a":{"b":0.1,"b":0.1}}', True),
        (rb'{"a":"x","a":"y","b":"\u003a"}', True),
        (rb'{"e1":0,"e1":0}', True),
        (rb'{"1":0,"1":1,"c":"\u003a\u0022"}', True),
        (rb'{"a":"","a":"","c":"\u0022\u0022\u0022\u0022"}', True),
        (rb'{"a":"\u4444\u4444\u4444\u4444\u4444","b":1,"b":2}', True),  # as long without its second b
        (rb'{"e1":0,"e2":0,"e":0}', False),
    ],
)
def test_keys_that_come_twice_are_refused_and_those_that_are_alike_are_not(row: bytes, is_refused: bool) -> None:
    assert_parsed_as_alone(row + b"\n")
    with pytest.raises(RunDirectoryError, match="comes twice") if is_refused else contextlib.nullcontext():
        parse_json_lines(row + b"\n", "file")


@pytest.mark.parametrize("depth", [files.MOST_DEPTH, files.MOST_DEPTH + 1, 300, 5000])
def test_rows_nested_too_deeply_are_refused(depth: int) -> None:
    row = b'{"a":' + b"[" * depth + b"]" * depth + b"}\n"
    assert_parsed_as_alone(row)
    with pytest.raises(RunDirectoryError, match="nested") if depth > files.MOST_DEPTH else contextlib.nullcontext():
        parse_json_lines(row, "file")


def test_ordinary_rows_are_read_quickly_and_without_orjson_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """``pip install modal`` alone must do for what reads a run that was brought home."""
    content = b"\n".join(_ROWS) + b"\n"
    with monkeypatch.context() as patch:
        patch.setattr(files, "_LINE_DECODER", None)
        quick = parse_json_lines(content, "file")
    files._orjson.cache_clear()
    monkeypatch.setitem(sys.modules, "orjson", None)
    try:
        assert parse_json_lines(content, "file") == quick == [json.loads(line) for line in content.splitlines()]
        assert files._orjson() is None
        with pytest.raises(RunDirectoryError, match="Extra data"):
            parse_json_lines(b"{} x\n", "file")
    finally:
        files._orjson.cache_clear()


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("within", ["1", "[]"])
def test_depth_alone_is_judged_as_among_odd_values(opening: str, closing: str, within: str) -> None:
    for depth in range(files.MOST_DEPTH - 2, files.MOST_DEPTH + 3):
        value = json.loads(opening * depth + within + closing * depth)
        refused = []
        for look in (files._refuse_odd, files._refuse_deep):
            try:
                look(value)
                refused.append(False)
            except ValueError:
                refused.append(True)
        assert refused[0] == refused[1]
