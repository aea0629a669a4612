"""The suite's watch over unpickling sees what it watches for."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path


def test_an_unpickled_class_is_noticed(nothing_is_unpickled: list[str]) -> None:
    module = importlib.import_module("pickle")  # which nothing here may import otherwise
    module.load(io.BytesIO(module.dumps(OrderedDict(a=1))))
    assert "OrderedDict" in nothing_is_unpickled[0]
    nothing_is_unpickled.clear()


def test_an_unpickled_class_is_noticed_in_a_process_of_its_own(tmp_path: Path) -> None:
    program = (
        "import importlib, io, collections; module = importlib.import_module('pickle');"
        "module.load(io.BytesIO(module.dumps(collections.OrderedDict(a=1))))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    noted = Path(os.environ["EMERGENCE_UNPICKLED"])
    assert noted.read_text().startswith("collections.OrderedDict in ")
    noted.write_text("")
