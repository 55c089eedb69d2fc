"""Holes and the gap ledger, held against sets of bars."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatecast.errors import DataError
from gatecast.market.candles import from_ms, to_ms
from gatecast.market.coverage import coverage
from gatecast.market.gaps import CAUSE, END, OURS, START, VENUE, Hole, as_gaps, confirmed, missing, read_gaps, without
from gatecast.market.gaps import write_gaps as write
from gatecast.market.store import Store, merge_candles
from tests.conftest import MARKET, random_candles

LENGTH = 3_600_000
NOW = datetime(2024, 6, 1, tzinfo=UTC)
bars = st.integers(0, 40)
spans = st.builds(lambda start, n: Hole(start * LENGTH, (start + n) * LENGTH), bars, st.integers(1, 12))


def bars_of(holes: list[Hole]) -> set[int]:
    return {bar for hole in holes for bar in range(hole.start // LENGTH, hole.end // LENGTH)}


@given(stored=st.sets(bars), known=st.lists(spans, max_size=3), wanted=spans, late=st.sampled_from((0, 17)))
def test_missing_is_what_is_wanted_and_neither_stored_nor_known(
    stored: set[int], known: list[Hole], wanted: Hole, late: int
) -> None:
    stamps = pl.Series(sorted(bar * LENGTH for bar in stored), dtype=pl.Int64)
    gaps = as_gaps(known, VENUE, "none", NOW)
    holes = missing(stamps, gaps, Hole(wanted.start, wanted.end + late), LENGTH)
    assert bars_of(holes) == bars_of([wanted]) - stored - bars_of(known)
    assert all(one.end < other.start for one, other in itertools.pairwise(holes)), "in order and apart"


@given(known=st.lists(spans, max_size=4), hole=spans)
def test_what_is_asked_for_again_leaves_the_ledger_and_the_rest_stays(known: list[Hole], hole: Hole) -> None:
    rows = without(as_gaps(known, VENUE, "none", NOW), hole).select(pl.col(START, END).dt.epoch("ms")).rows()
    assert bars_of([Hole(*row) for row in rows]) == bars_of(known) - bars_of([hole])
    assert all(start < end for start, end in rows)


def test_the_ledger_comes_back_as_it_was_written_and_only_the_venues_holes_are_confirmed(tmp_path: Path) -> None:
    rows = pl.concat([as_gaps([Hole(0, LENGTH)], VENUE, "none", NOW), as_gaps([Hole(LENGTH, 9)], OURS, "503", NOW)])
    assert read_gaps(tmp_path, MARKET).is_empty()
    write(tmp_path, MARKET, rows)
    assert read_gaps(tmp_path, MARKET).equals(rows.sort(START, END))
    assert confirmed(rows)[CAUSE].to_list() == [VENUE]


def test_a_damaged_ledger_is_named_with_its_remedy(tmp_path: Path) -> None:
    write(tmp_path, MARKET, as_gaps([Hole(0, LENGTH)], VENUE, "none", NOW))
    (path,) = tmp_path.rglob("gaps.parquet")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"gaps\.parquet cannot be read .* delete it"):
        read_gaps(tmp_path, MARKET)


def test_coverage_tells_holes_by_cause(tmp_path: Path) -> None:
    store = Store(tmp_path / "candles", tmp_path / "ledger")
    rows = random_candles(100)
    merge_candles(store, MARKET, pl.concat([rows[:20], rows[30:50], rows[55:]]))
    first = to_ms(rows["ts"][0])
    write(store.ledger, MARKET, as_gaps([Hole(first + 20 * LENGTH, first + 30 * LENGTH)], VENUE, "none", NOW))
    found = coverage(store, MARKET, rows["ts"][0] - timedelta(hours=7), None)
    assert found["holes"] == {
        "venue": {"n": 1, "bars": 10},
        "lost": {"n": 0, "bars": 0},
        "ours": {"n": 2, "bars": 5 + 7},
    }
    assert found["covered"] == pytest.approx(85 / 107)
    assert (found["n_candles"], found["closed_at"]) == (85, "2024-01-05T04:00Z")
    assert found["age_bars"] > 24 * 365
    assert coverage(store, MARKET, None, from_ms(first))["n_candles"] == 0
