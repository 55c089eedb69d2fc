"""The picture of a forecast as a file: whole, and the same bytes for the same content."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from gatecast.evaluation.report.figures import fan_chart, save_png
from tests.evaluation.report.evaluated import HORIZONS, START, make_history, make_ledger


def _ledger_frame() -> pl.DataFrame:
    instants = ("issued_at", "target_at")
    return pl.DataFrame([{**row, **{at: datetime.fromisoformat(row[at]) for at in instants}} for row in make_ledger()])


def _draw(title: str = "BTC/USDT") -> Figure:
    return fan_chart(make_history(), _ledger_frame(), title=title)


def test_fan_starts_at_the_last_close_when_it_became_known() -> None:
    figure = _draw()
    median = next(line for line in figure.axes[0].lines if line.get_label() == "median")
    xs, ys = median.get_xdata(), median.get_ydata()
    assert xs[0] == START + timedelta(hours=120)  # type: ignore[index]  # matplotlib types data as ArrayLike
    assert ys[0] == pytest.approx(63_240)  # type: ignore[index]  # matplotlib types data as ArrayLike
    assert len(np.asarray(xs)) == 1 + len(HORIZONS)


def test_fan_is_drawn_after_a_single_close() -> None:
    figure = fan_chart(make_history().tail(1), _ledger_frame(), title="")
    assert figure.axes[0].lines[0].get_xdata()[0] == START + timedelta(hours=120)  # type: ignore[index]  # matplotlib types data as ArrayLike


def test_fan_bands_are_nested_and_widen() -> None:
    heights = [np.ptp(np.asarray(band.get_paths()[0].vertices)[:, 1]) for band in _draw().axes[0].collections]
    assert heights[0] > heights[1] > heights[2] > 0


def test_a_dollar_in_a_symbol_is_text_and_never_mathematics(tmp_path: Path) -> None:
    save_png(_draw("$x$ <b>"), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_png_is_written_whole_and_equal_for_equal_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "new" / "b.png"
    save_png(_draw(), first)
    save_png(_draw(), second)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "new"]
