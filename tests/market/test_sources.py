from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from gatecast.config import Config
from gatecast.config_ingest import IngestConfig
from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import TS, Market
from gatecast.market.sample import read_sample
from gatecast.market.sources import collect
from gatecast.market.store import Store, merge_candles, read_candles
from tests.conftest import MARKET, random_candles


def store_in(folder: Path) -> Store:
    return Store(folder / "candles", folder / "ledger")


def silent(line: str) -> None:
    del line


@pytest.fixture
def files(config: Config) -> IngestConfig:
    return config.ingest.model_copy(update={"source": "files", "files": "in/{symbol}.parquet"})


def write(folder: Path, symbol: str, candles: pl.DataFrame) -> None:
    (folder / "in").mkdir(exist_ok=True)
    candles.write_parquet(folder / "in" / f"{symbol}.parquet")


def test_the_sample_is_the_exchange_s_own_candles_with_its_holes() -> None:
    sample = read_sample(MARKET)
    assert len(sample) == 35_033
    assert (sample[TS][0], sample[TS][-1]) == (datetime(2020, 1, 1, tzinfo=UTC), datetime(2023, 12, 31, 23, tzinfo=UTC))


def test_a_market_that_the_sample_does_not_hold_is_named() -> None:
    with pytest.raises(ConfigurationError, match="holds binance BTC/USDT 1h and not binance ETH/USDT 1h"):
        read_sample(Market("binance", "ETH/USDT", "1h"))


def test_a_run_on_files_takes_exactly_their_rows_whatever_the_store_holds(tmp_path: Path, files: IngestConfig) -> None:
    store = store_in(tmp_path)
    merge_candles(store, MARKET, random_candles(900, seed=9))
    rows = pl.concat([random_candles(100), random_candles(100)[5:6].with_columns(close=pl.lit(-1.0))])
    write(tmp_path, "BTC-USDT", rows)
    (candles,) = collect(files, tmp_path, store, silent).values()
    assert candles.equals(rows)
    assert len(read_candles(store.candles, MARKET)) == 901


def test_nothing_is_stored_when_one_of_several_files_is_bad(tmp_path: Path, files: IngestConfig) -> None:
    write(tmp_path, "BTC-USDT", random_candles(100))
    (tmp_path / "in" / "ETH-USDT.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"ETH-USDT\.parquet cannot be read"):
        collect(files.model_copy(update={"symbols": ("BTC/USDT", "ETH/USDT")}), tmp_path, store_in(tmp_path), silent)
    assert read_candles(tmp_path / "candles", MARKET).is_empty()


def test_what_is_not_closed_yet_is_handed_on_for_clean_to_see_and_never_stored(
    tmp_path: Path, files: IngestConfig
) -> None:
    said: list[str] = []
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = random_candles(50, start=now - timedelta(hours=45))
    write(tmp_path, "BTC-USDT", rows)
    (candles,) = collect(files, tmp_path, store_in(tmp_path), said.append).values()
    assert candles.equals(rows)
    assert read_candles(tmp_path / "candles", MARKET).equals(rows[:45])
    assert any("5 candles are not closed yet" in line for line in said)
    write(tmp_path, "BTC-USDT", rows[45:])
    with pytest.raises(DataError, match="none of the 5 candles of binance BTC/USDT 1h is closed yet"):
        collect(files, tmp_path, store_in(tmp_path), silent)


@pytest.mark.parametrize("template", ["in/{pair}.parquet", "in/*{symbol}.parquet", "in/../in/BTC-USDT.parquet"])
def test_one_file_for_two_markets_or_a_copy_of_it_is_refused_with_both_names(
    tmp_path: Path, files: IngestConfig, template: str
) -> None:
    for name in ("BTC-USDT", "BTCUSDT"):
        write(tmp_path, name, random_candles(100))
    own = files.model_copy(update={"files": template, "reference_exchange": "kraken"})
    with pytest.raises(DataError, match=r"for binance BTC/USDT 1h and for kraken BTC/USDT 1h: one file cannot be both"):
        collect(own, tmp_path, store_in(tmp_path), silent)
    assert not (tmp_path / "candles").exists()
    apart = own.model_copy(update={"files": "in/{exchange}-{symbol}.parquet"})
    for exchange in ("binance", "kraken"):
        write(tmp_path, f"{exchange}-BTC-USDT", random_candles(100))
    with pytest.raises(DataError, match="the candles of kraken BTC/USDT 1h are those of binance BTC/USDT 1h"):
        collect(apart, tmp_path, store_in(tmp_path), silent)
    assert not (tmp_path / "candles").exists()
    write(tmp_path, "kraken-BTC-USDT", random_candles(100, seed=1))
    assert len(collect(apart, tmp_path, store_in(tmp_path), silent)) == 2


def test_only_the_wanted_span_is_taken_and_an_empty_one_is_named(tmp_path: Path, files: IngestConfig) -> None:
    write(tmp_path, "BTC-USDT", random_candles(100))
    start, end = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC)
    chosen = files.model_copy(update={"start": start, "end": end})
    (candles,) = collect(chosen, tmp_path, store_in(tmp_path), silent).values()
    assert candles[TS].to_list() == [start + timedelta(hours=h) for h in range(24)]
    late = files.model_copy(update={"start": datetime(2030, 1, 1, tzinfo=UTC)})
    with pytest.raises(DataError, match=r"no closed candle of binance BTC/USDT 1h from 2030-01-01T00:00Z"):
        collect(late, tmp_path, store_in(tmp_path), silent)


@pytest.mark.parametrize(
    ("source", "day", "words"),
    [("files", datetime(2021, 2, 11), "ingest.source is files"), ("exchange", datetime(2099, 1, 1), "a day to come")],
)
def test_a_day_that_nobody_can_be_asked_for_again_is_refused(
    tmp_path: Path, files: IngestConfig, source: str, day: datetime, words: str
) -> None:
    config = files.model_copy(update={"source": source})
    with pytest.raises(ConfigurationError, match=words):
        collect(config, tmp_path, store_in(tmp_path), silent, [day])
