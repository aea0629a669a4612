"""The suite's watch over unpickling sees what it watches for."""

from __future__ import annotations

import importlib
import io
from collections import OrderedDict


def test_an_unpickled_class_is_noticed(nothing_is_unpickled: list[str]) -> None:
    module = importlib.import_module("pickle")  # which nothing here may import otherwise
    module.load(io.BytesIO(module.dumps(OrderedDict(a=1))))
    assert "OrderedDict" in nothing_is_unpickled[0]
    nothing_is_unpickled.clear()
