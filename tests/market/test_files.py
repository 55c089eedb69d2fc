import gzip
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import CANDLE_SCHEMA, PRICES, TS, VALUES
from gatecast.market.files import read_files
from tests.conftest import MARKET, random_candles
from tests.market.real_candles import real_file

CANDLES = random_candles(30)
TEMPLATE = "{exchange}/{symbol}-{timeframe}.csv"


def read(root: Path, name: str = "x.csv") -> pl.DataFrame:
    return read_files(name, root, MARKET)


def write_csv(path: Path, stamps: pl.Expr) -> None:
    CANDLES.with_columns(stamps.alias(TS)).write_csv(path)


MS = pl.col(TS).dt.epoch("ms")


@pytest.mark.parametrize(
    "stamps",
    [
        MS,
        MS // 1000,
        pl.col(TS).dt.to_string("%Y-%m-%dT%H:%M:%SZ"),
        pl.col(TS).dt.to_string("%Y-%m-%dT%H:%M:%S%:z"),
        pl.col(TS).dt.to_string("%Y-%m-%d %H:%M:%S"),
        pl.col(TS).dt.to_string("%Y-%m-%d %H:%M:%S%:z"),
        pl.col(TS).dt.to_string("%Y-%m-%dT%H:%M"),
        pl.col(TS).dt.convert_time_zone("America/New_York").dt.to_string("%Y-%m-%dT%H:%M:%S%:z"),
    ],
)
def test_every_way_to_write_a_stamp_gives_the_same_candles(tmp_path: Path, stamps: pl.Expr) -> None:
    write_csv(tmp_path / "x.csv", stamps)
    assert read(tmp_path).equals(CANDLES)


def test_the_template_names_the_file_and_a_packed_one_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "binance").mkdir()
    write_csv(tmp_path / "binance" / "BTC-USDT-1h.csv", MS)
    assert read(tmp_path, TEMPLATE).equals(CANDLES)
    packed = gzip.compress((tmp_path / "binance" / "BTC-USDT-1h.csv").read_bytes())
    (tmp_path / "x.csv.gz").write_bytes(packed)
    assert read(tmp_path, "x.csv.gz").equals(CANDLES)
    CANDLES.with_columns(extra=pl.lit(1)).write_parquet(tmp_path / "x.parquet")
    assert read(tmp_path, "x.parquet").equals(CANDLES)


def test_blank_lines_at_the_end_are_no_sign_of_a_cut(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", MS)
    with (tmp_path / "x.csv").open("a") as file:
        file.write("\n \n")
    assert len(read(tmp_path)) == len(CANDLES)


def test_bad_values_pass_through_untouched_and_in_order(tmp_path: Path) -> None:
    lines = ["ts,open,high,low,close,volume", "2024-01-02T00:00Z,1,nan,-1,inf,", "2024-01-01T00:00Z,1,1,1,1,1"]
    (tmp_path / "x.csv").write_text("\n".join([*lines, lines[2]]))
    rows = read(tmp_path)
    assert rows[TS].is_sorted() is False
    assert len(rows) == 3
    first = rows.row(0, named=True)
    assert (first["low"], first["close"]) == (-1.0, float("inf"))
    assert first["high"] != first["high"]
    assert first["volume"] != first["volume"]


HEADER = "ts,open,high,low,close,volume\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\n\n ,, \n", "is empty"),
        (HEADER.encode(), "holds no candle"),
        (b"ts,open,high\n1,2,3\n", "lacks the column(s) low, close, volume"),
        (
            HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\n2024-01-01T01:00Z,1,two,1,1,1\n",
            "line 3: high 'two' is not a number",
        ),
        (
            HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\nyesterday,1,2,1,1,1\n",
            "line 3: ts 'yesterday' is neither ISO 8601",
        ),
        (HEADER.encode() + b",1,2,1,1,1\n", "line 2: ts"),
        (HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\n2024-01-01T01:00Z,1,2", "after 3 of 6 cells"),
        (bytes(range(256)) * 20, "cannot be read"),
        (b"<!DOCTYPE html>\n<html><title>404</title></html>\n", "is a web page (it begins with '<!DOCTYPE html>')"),
        (b"https://www.CryptoDataDownload.com\n", "holds no candle"),
        (
            HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\n2024-01-01T01:00Z,1,2,1,1\n2024-01-01T02:00Z,1,2,1,1,1\n",
            "line 3 has 5 cells where 6 are needed",
        ),
        (HEADER.encode() + b"\n2024-01-01T00:00Z,1,2,1,1,1\n2024-01-01T01:00Z,1,2,1,1,1,7\n", "line 4 has 7 cells"),
        (HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\n" + HEADER.encode(), "line 3: ts 'ts' is neither"),
        (b"ts,open,high,low,close,volume,Open\n2024-01-01T00:00Z,1,2,1,1,1,1\n", "names column open twice"),
        (
            HEADER.encode() + b"1704067200000,1,2,1,1,1\n170406720,1,2,1,1,1\n",
            "line 3: ts '170406720' is no epoch time in s",
        ),
        (HEADER.encode() + b"17040672000000,1,2,1,1,1\n", "is no epoch time in s, ms"),
        (
            HEADER.encode() + b"1704067200000000000,1,2,1,1,1\n",
            "is no epoch time in s, ms or \u00b5s between 1990 and 2100",
        ),
        (HEADER.encode() + b"1704067200000,1,2,1,1,1\nyesterday,1,2,1,1,1\n", "line 3: ts 'yesterday'"),
        (
            b"unix,symbol,open,high,low,close,volume\n1704067200,BTC,1,2,1,1,1\n1704070800,ETH,1,2,1,1,1\n",
            "holds candles of 2 symbols, 'BTC' and 'ETH' first",
        ),
        (
            b"unix,open,high,low,close,Volume ETH,Volume USDT\n1704067200,1,2,1,1,1,2\n",
            "has volumes in ETH, USDT and none in BTC, the base of binance BTC/USDT 1h",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_that_names_it(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    line = str(error.value)
    assert words in line
    assert str(tmp_path / "x.csv") in line
    assert "\n" not in line


def test_a_truncated_parquet_a_folder_and_another_kind_are_one_line(tmp_path: Path) -> None:
    CANDLES.write_parquet(tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-40])
    write_csv(tmp_path / "whole.csv", MS)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((tmp_path / "whole.csv").read_bytes())[:-40])
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.txt").write_text("words")
    CANDLES.with_columns(pl.col(TS).dt.to_string("%c")).write_parquet(tmp_path / "text.parquet")
    CANDLES.with_columns(close=pl.lit("high")).write_parquet(tmp_path / "words.parquet")
    for name in ("cut.parquet", "cut.csv.gz", "folder.csv", "x.txt", "text.parquet", "words.parquet"):
        with pytest.raises(DataError) as error:
            read(tmp_path, name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def archive(stamps: pl.Expr, candles: pl.DataFrame = CANDLES) -> pl.DataFrame:
    """Candles as the Binance archive writes them: 12 columns."""
    return candles.select(
        stamps.alias("open_time"),
        *VALUES,
        (stamps + 1).alias("close_time"),
        (pl.col("volume") * 7).alias("quote_volume"),
        pl.lit(3).alias("count"),
        (pl.col("volume") / 2).alias("taker_buy_volume"),
        (pl.col("volume") * 3).alias("taker_buy_quote_volume"),
        pl.lit(0).alias("ignore"),
    )


def zipped(text: str, *more: str) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate((text, *more)):
            archive.writestr(f"{number}.csv", content)
    return packed.getvalue()


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


PACKING: dict[str, Callable[[str], bytes]] = {
    "csv": str.encode,
    "csv.gz": lambda t: gzip.compress(t.encode()),
    "zip": zipped,
}


@pytest.mark.parametrize("ending", PACKING)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("stamps", [MS // 1000, MS, MS * 1000])
def test_the_binance_archive_is_read_as_it_is(tmp_path: Path, stamps: pl.Expr, named: bool, ending: str) -> None:
    text = archive(stamps).write_csv(include_header=named)
    (tmp_path / f"BTCUSDT-1h-2024-01.{ending}").write_bytes(PACKING[ending](text))
    assert read(tmp_path, f"{{pair}}-{{timeframe}}-2024-01.{ending}").equals(CANDLES)


def test_a_month_a_file_is_read_in_order_and_what_overlaps_is_left_to_clean(tmp_path: Path) -> None:
    days = random_candles(70)
    parts = {"2024-10": (days[40:], MS * 1000), "2024-02": (days[20:45], MS), "2024-01": (days[:20], MS // 1000)}
    for month, (rows, stamps) in parts.items():
        (tmp_path / f"BTCUSDT-1h-{month}.zip").write_bytes(
            zipped(archive(stamps, rows).write_csv(include_header=False))
        )
    (tmp_path / "BTCUSDT-5m-2024-01.zip").write_bytes(b"of another timeframe")
    rows = read(tmp_path, "{pair}-{timeframe}-*.zip")
    assert rows.equals(pl.concat([days[:20], days[20:45], days[40:]]))
    (tmp_path / "BTCUSDT-1h-2024-03.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"BTCUSDT-1h-2024-03\.zip is empty"):
        read(tmp_path, "{pair}-{timeframe}-*.zip")
    with pytest.raises(DataError, match=r"1d-\*\.zip does not exist"):
        read_files("{pair}-{timeframe}-*.zip", tmp_path, replace(MARKET, timeframe="1d"))


def test_only_the_star_is_a_wild_card(tmp_path: Path) -> None:
    (tmp_path / "a[1]?").mkdir()
    write_csv(tmp_path / "a[1]?" / "x[2]-1.csv", MS)
    write_csv(tmp_path / "a[1]?" / "x2-1.csv", MS // 1000 * 1000 + 1)
    assert read(tmp_path, "a[1]?/x[2]-*.csv").equals(CANDLES)


def vendor(names: str, volume: str) -> str:
    """Candles as CryptoDataDownload writes them: newest first, seconds in the older half, milliseconds in the newer."""
    rows = ["https://www.CryptoDataDownload.com", names]
    for number, row in reversed(list(enumerate(CANDLES.iter_rows(named=True)))):
        seconds = int(row[TS].timestamp())
        stamp = f"{seconds}.0" if number < 5 else seconds if number < 15 else seconds * 1000
        prices = ",".join(str(row[name]) for name in PRICES)
        rows.append(f"{stamp},{row[TS]:%Y-%m-%d %H:%M:%S},BTC/USDT,{prices},{volume.format(row['volume'])}")
    return "\r\n".join(rows) + "\r\n"


@pytest.mark.parametrize(
    ("names", "volume"),
    [
        ("unix,date,symbol,open,high,low,close,Volume BTC,Volume USDT,tradecount", "{},9.5,3"),
        ("Unix,Date,Symbol,Open,High,Low,Close,Volume USDT,Volume BTC", "9.5,{}"),
        ("Unix Timestamp,Date,Symbol,Open,High,Low,Close,Volume", "{}"),
    ],
)
def test_cryptodatadownload_is_read_as_it_is_newest_first(tmp_path: Path, names: str, volume: str) -> None:
    (tmp_path / "x.csv").write_bytes(vendor(names, volume).encode())
    assert read(tmp_path).equals(CANDLES.reverse())


@pytest.mark.parametrize("name", ["date", "Date", "timestamp", "ts"])
def test_a_daily_stock_has_its_date_for_an_open_time(tmp_path: Path, name: str) -> None:
    stamps = pl.date_range(date(1962, 1, 2), date(1962, 1, 31), eager=True).alias(TS)
    stock = CANDLES.with_columns(stamps).rename({TS: name}).with_columns(adj_close=pl.col("close") / 4)
    expected = CANDLES.with_columns(stamps.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"))
    stock.write_csv(tmp_path / "x.csv")
    stock.write_parquet(tmp_path / "x.parquet")
    assert read(tmp_path).equals(expected)
    assert read(tmp_path, "x.parquet").equals(expected)


def test_parquet_may_hold_epoch_times_and_names_the_row_of_one_in_another_unit(tmp_path: Path) -> None:
    for stamps in (MS, MS // 1000, MS * 1000):
        CANDLES.with_columns(stamps).write_parquet(tmp_path / "x.parquet")
        assert read(tmp_path, "x.parquet").equals(CANDLES)
    wrong = pl.when(pl.int_range(pl.len()) == 7).then(MS * 1_000_000).otherwise(MS).alias(TS)
    CANDLES.with_columns(wrong).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet row 8: ts \d+ is no epoch time"):
        read(tmp_path, "x.parquet")
    CANDLES.with_columns((MS // 1000).cast(pl.Datetime("ms", "UTC")).alias(TS)).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 1: ts .*1970.* its numbers were read in another unit"):
        read(tmp_path, "x.parquet")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped("ts,open\n", "ts,open\n"), "holds 2 files, where one CSV is needed"),
        (zipped(CANDLES.write_csv())[:-30], "not a zip file"),
        (_flipped(zipped(CANDLES.write_csv()), 500), "cannot be read"),
        (b"PK\x03\x04", "not a zip file"),
    ],
)
def test_a_damaged_zip_is_one_line_that_names_it(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read(tmp_path, "x.zip")
    assert str(tmp_path / "x.zip") in str(error.value)
    assert "\n" not in str(error.value)


@given(cut=st.integers(1, 2000), data=st.data())
def test_a_file_cut_anywhere_is_refused_or_whole_lines_shorter(cut: int, data: st.DataObject) -> None:
    ending = data.draw(st.sampled_from(["csv.gz", "zip", "parquet"]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{ending}"
        if ending == "parquet":
            CANDLES.write_parquet(path)
        else:
            path.write_bytes(PACKING[ending](CANDLES.write_csv()))
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(DataError, match=f"x.{ending} ") as error:
            read(Path(folder), path.name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["candles", "dirty", "stocks"])
def test_real_files_are_read_as_they_are(folder: str) -> None:
    for path in sorted(real_file(SOME_FILE[folder], folder).parent.glob("*.parquet")):
        truth = pl.read_parquet(path)
        assert read(path.parent, path.name).equals(truth.select(CANDLE_SCHEMA.names()))


SOME_FILE = {"candles": "binance-BTC-USDT-1h", "dirty": "cdd_binance_BTCUSDT_1h", "stocks": "us_IBM_1d"}


@pytest.mark.parametrize("template", ["{venue}.csv", "{symbol", "{}.csv", "{symbol!x}.csv"])
def test_a_template_with_a_mistake_is_one_line(tmp_path: Path, template: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, template)
    assert "\n" not in str(error.value)
