import gzip
from pathlib import Path

import polars as pl
import pytest

from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import TS
from gatecast.market.files import read_files
from tests.conftest import MARKET, random_candles

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
        (b"", "cannot be read"),
        (HEADER.encode(), "holds no candle"),
        (b"ts,open,high\n1,2,3\n", "lacks the column(s) low, close, volume"),
        (
            HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\n2024-01-01T01:00Z,1,two,1,1,1\n",
            "line 3: high 'two' is not a number",
        ),
        (HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\nyesterday,1,2,1,1,1\n", "line 3: ts 'yesterday' is neither"),
        (HEADER.encode() + b",1,2,1,1,1\n", "line 2: ts"),
        (HEADER.encode() + b"2024-01-01T00:00Z,1,2,1,1,1\n2024-01-01T01:00Z,1,2", "after 3 of 6 cells"),
        (bytes(range(256)) * 20, ""),
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


@pytest.mark.parametrize("template", ["{venue}.csv", "{symbol", "{}.csv", "{symbol!x}.csv"])
def test_a_template_with_a_mistake_is_one_line(tmp_path: Path, template: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, template)
    assert "\n" not in str(error.value)
