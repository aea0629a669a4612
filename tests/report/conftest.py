"""What every figure that these tests save is looked at for."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def figures_hold_words_and_no_values_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """No label, title or legend is a Python object's text, and none is as long as a caption."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    text = pytest.importorskip("matplotlib.text").Text
    save = figure.savefig

    def looked_at(self: Any, *args: Any, **kwargs: Any) -> Any:
        for found in self.findobj(text):
            words = found.get_text()
            assert not any(sign in words for sign in ("{'", "['", "array(", "None", "nan")), words[:200]
            assert max(map(len, words.split("\n"))) <= 100, words[:200]
        return save(self, *args, **kwargs)

    monkeypatch.setattr(figure, "savefig", looked_at)
