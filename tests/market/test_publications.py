"""The table of publications: one order, whatever came first, and nothing of the future in what is frozen."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.config_ingest import IngestConfig
from gatecast.config_parsing import parse_config
from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import SYMBOL, TS, from_ms
from gatecast.market.publications.collect import collect_publications
from gatecast.market.publications.table import (
    FEAR_GREED,
    FUNDING,
    HEADLINES,
    PUBLICATION_SCHEMA,
    PUBLISHED_AT,
    SOURCE,
    SOURCES,
    TEXT,
    VALUE,
    as_publications,
    read_publications,
    sources_of,
    together,
    write_publications,
)
from gatecast.market.snapshot import freeze, read_snapshot, snapshot_of
from tests.conftest import MARKET, random_candles
from tests.market.real_candles import FOLDER, real_file
from tests.test_config import shipped

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def silent(line: str) -> None:
    del line


def published(*stamps: datetime, source: str = FUNDING, symbol: str | None = "BTC/USDT") -> pl.DataFrame:
    rows = pl.DataFrame({PUBLISHED_AT: list(stamps), VALUE: [float(place) for place in range(len(stamps))]})
    return as_publications(rows, source, symbol)


@given(order=st.permutations(range(9)), cut=st.integers(0, 9))
def test_the_table_is_the_same_in_whatever_order_its_parts_came(order: list[int], cut: int) -> None:
    rows = pl.concat(
        [
            *(published(NOON + timedelta(hours=hour), symbol=symbol) for hour in (0, 1) for symbol in ("A/B", "C/D")),
            *(published(NOON, source=FEAR_GREED, symbol=None) for _ in range(2)),
            *(
                as_publications(pl.DataFrame({PUBLISHED_AT: [NOON], TEXT: [text]}), HEADLINES)
                for text in ("up", "down", "")
            ),
        ]
    )
    shuffled = rows[order]
    table = together([shuffled[:cut], shuffled[cut:], shuffled[:3]])
    assert table.equals(together([rows]))
    assert table.schema == PUBLICATION_SCHEMA
    assert table[SOURCE].to_list() == sorted(table[SOURCE])
    assert len(table) == 8


def test_no_source_is_an_empty_table_of_the_same_columns(tmp_path: Path, config: Config) -> None:
    said: list[str] = []
    table = collect_publications(config.ingest, tmp_path, tmp_path / "publications", said.append)
    assert table.is_empty()
    assert table.schema == PUBLICATION_SCHEMA
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_published_when_the_candles_end_is_in_their_future(tmp_path: Path, config: Config) -> None:
    candles = random_candles(100)
    end = candles[TS][-1] + timedelta(hours=1)
    just_before = end - timedelta(milliseconds=1)
    table = together([published(just_before, end, end + timedelta(days=9))])
    freeze(tmp_path / "raw", snapshot_of(config.ingest, end), {MARKET: candles}, table)
    assert read_publications(tmp_path / "raw")[PUBLISHED_AT].to_list() == [just_before]
    first = (tmp_path / "raw" / "publications.parquet").read_bytes()
    freeze(tmp_path / "raw", snapshot_of(config.ingest, end), {MARKET: candles}, table)
    assert (tmp_path / "raw" / "publications.parquet").read_bytes() == first


def test_a_snapshot_names_its_sources_and_one_without_them_does_not(config: Config, tmp_path: Path) -> None:
    plain = snapshot_of(config.ingest, NOON)
    assert plain.sources == ()
    assert "with" not in str(plain)
    both = snapshot_of(config.ingest.model_copy(update={"feeds": ("https://a.org",), "fear_greed": "x.csv"}), NOON)
    assert str(both).endswith("with fear_greed, headlines")
    freeze(tmp_path / "raw", both, {MARKET: random_candles(10)}, together([]))
    assert read_snapshot(tmp_path / "raw") == both


@pytest.mark.parametrize(
    ("changed", "sources"),
    [
        ({}, ()),
        ({"fear_greed": "a"}, (FEAR_GREED,)),
        ({"headlines": "a"}, (HEADLINES,)),
        ({"feeds": ("https://a.org/rss",)}, (HEADLINES,)),
        ({"funding": "a"}, (FUNDING,)),
        ({"funding_exchange": "binanceusdm", "headlines": "b", "fear_greed": "c"}, SOURCES),
    ],
)
def test_a_source_is_on_where_one_of_its_keys_is_set(
    config: Config, changed: dict[str, object], sources: tuple[str, ...]
) -> None:
    assert sources_of(config.ingest.model_copy(update=changed)) == sources


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"feeds": ["ftp://example.org/rss"]}, "a feed is an http or https address"),
        ({"feeds": ["file:///etc/passwd"]}, "a feed is an http or https address"),
        ({"feeds": ["example.org/rss"]}, "a feed is an http or https address"),
        ({"feeds": ["https://"]}, "a feed is an http or https address"),
        ({"feeds": ["https://a.org/b c"]}, "a feed is an http or https address"),
        ({"feeds": ["https://a.org:port/"]}, "ort"),
        ({"feeds": ["https://someone:hidden@a.org/rss"]}, "a user or a password"),
        ({"feeds": ["https://a.org", "https://a.org"]}, "each of feeds can be named once"),
        ({"funding": "a.csv", "funding_exchange": "binanceusdm"}, "not from both"),
        ({"funding_exchange": "binanceusdm", "funding_symbols": ["A/B:B", "C/B:B"]}, "another number of contracts"),
        ({"funding_symbols": ["A/B:B"]}, "contracts of funding_exchange, which is null"),
    ],
)
def test_keys_that_cannot_be_together_are_one_line(changed: dict[str, Any], words: str) -> None:
    values = shipped()
    values["ingest"] |= changed
    with pytest.raises(ConfigurationError, match=words) as error:
        parse_config(values, "conf/params.yaml")
    assert "\n" not in str(error.value)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize("fault", ["absent", "damaged", "cut", "other"])
def test_a_frozen_table_that_cannot_be_read_says_what_to_run(tmp_path: Path, fault: str) -> None:
    write_publications(tmp_path, published(NOON))
    path = tmp_path / "publications.parquet"
    if fault == "absent":
        path.unlink()
    elif fault == "damaged":
        path.write_bytes(b"PAR1 but not really")
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        random_candles(3).write_parquet(path)
    with pytest.raises(DataError, match=r"publications\.parquet .*gatecast ingest") as error:
        read_publications(tmp_path)
    assert "\n" not in str(error.value)


def test_real_publications_of_every_kind_make_one_table(config: Config, tmp_path: Path) -> None:
    for name, folder in (
        ("fear_greed_daily", "sentiment"),
        ("crypto_news_2021_2022", "sentiment"),
        ("binance_usdm_BTCUSDT_funding", "funding"),
        ("binance_usdm_ETHUSDT_funding", "funding"),
    ):
        real_file(name, folder)
    files = {
        "symbols": ("BTC/USDT", "ETH/USDT"),
        "fear_greed": str(FOLDER / "sentiment" / "fear_greed_daily.parquet"),
        "headlines": str(FOLDER / "sentiment" / "crypto_news_*.parquet"),
        "funding": str(FOLDER / "funding" / "binance_usdm_{pair}_funding.parquet"),
    }
    said: list[str] = []
    ingest: IngestConfig = config.ingest.model_copy(update=files)
    table = collect_publications(ingest, tmp_path, tmp_path, said.append)
    counts = dict(table.group_by(SOURCE).len().iter_rows())
    assert counts == {FEAR_GREED: 2522, HEADLINES: 7522, FUNDING: 5819 + 5585}
    assert said[0] == "ingest: fear_greed: 2522 publications, 2018-02-02T00:00Z to 2025-01-01T00:00Z"
    assert len(said) == 3
    assert table.filter(pl.col(SOURCE) == FUNDING)[SYMBOL].unique().sort().to_list() == ["BTC/USDT", "ETH/USDT"]
    assert table.filter(pl.col(SOURCE) != FUNDING)[SYMBOL].null_count() == 2522 + 7522
    index = table.filter(pl.col(SOURCE) == FEAR_GREED)
    truth = pl.read_parquet(FOLDER / "sentiment" / "fear_greed_daily.parquet")
    assert (index[PUBLISHED_AT] - truth[TS].dt.cast_time_unit("ms")).unique().to_list() == [timedelta(days=1)]
    assert index[VALUE].to_list() == truth["fear_greed"].to_list()


def test_instants_before_the_epoch_and_far_ahead_are_instants() -> None:
    assert together([published(from_ms(-1), from_ms(4_102_444_799_000))])[PUBLISHED_AT].is_sorted()
