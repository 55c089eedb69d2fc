"""Files of publications: when a row could be known, and what is refused."""

import gzip
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import SYMBOL, TS, Market
from gatecast.market.publications.files import read_fear_greed, read_funding, read_headlines
from gatecast.market.publications.table import FEAR_GREED, PUBLICATION_SCHEMA, PUBLISHED_AT, TEXT, VALUE
from tests.conftest import MARKET
from tests.market.real_candles import FOLDER, real_file

DAY = datetime(2024, 3, 1, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)
ETH = Market("binance", "ETH/USDT", "1h")


def index_of(folder: Path, stamp: object, name: str = TS) -> datetime:
    path = folder / "index.csv"
    path.write_text(f"{name},value\n{stamp},40\n")
    found = read_fear_greed("index.csv", folder)
    assert found.schema == PUBLICATION_SCHEMA
    at: datetime = found[PUBLISHED_AT][0]
    return at


def headline_of(folder: Path, stamp: object, name: str = TS) -> datetime:
    (folder / "news.csv").write_text(f"{name},title\n{stamp},Bitcoin\n")
    at: datetime = read_headlines("news.csv", folder)[PUBLISHED_AT][0]
    return at


@pytest.mark.parametrize(
    ("stamp", "known"),
    [
        ("2024-03-01", NEXT),
        ("2024-03-01T00:00:00Z", NEXT),
        ("2024-03-01 07:15:00", NEXT),
        ("2024-03-01T23:59:59.999Z", NEXT),
        ("1709251200", NEXT),
        ("1709251200000", NEXT),
        ("2024-03-01T00:00:00+02:00", NEXT),  # its day ends at 22:00 UTC, and the next midnight is that of the 2nd
        ("2024-03-01T00:00:00-05:00", NEXT + timedelta(days=1)),  # its day ends at 05:00 UTC on the 2nd
        ("2024-02-29T23:30:00-02:00", NEXT),
    ],
)
def test_the_index_of_a_day_is_known_when_the_day_is_over(tmp_path: Path, stamp: str, known: datetime) -> None:
    assert index_of(tmp_path, stamp) == known


@settings(deadline=None)
@given(seconds=st.integers(1_500_000_000, 1_800_000_000), hours=st.integers(-12, 14))
def test_no_index_is_ever_known_in_its_own_day(
    tmp_path_factory: pytest.TempPathFactory, seconds: int, hours: int
) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    shifted = at + timedelta(hours=hours)
    sign = "-" if hours < 0 else "+"
    written = f"{shifted:%Y-%m-%dT%H:%M:%S}{sign}{abs(hours):02}:00"
    known = index_of(tmp_path_factory.getbasetemp(), written)
    end_of_its_day = shifted.replace(hour=0, minute=0, second=0) + timedelta(days=1) - timedelta(hours=hours)
    assert end_of_its_day <= known < end_of_its_day + timedelta(days=1)
    assert (known.hour, known.minute, known.second) == (0, 0, 0)


@pytest.mark.parametrize(
    ("stamp", "known"),
    [
        ("2024-03-01T04:24:00Z", DAY + timedelta(hours=4, minutes=24)),
        ("2024-03-01 00:01", DAY + timedelta(minutes=1)),
        ("2024-03-01T00:00:01Z", DAY + timedelta(seconds=1)),
        ("2024-03-01", NEXT),
        ("2024-03-01T00:00:00Z", NEXT),
        ("1709251200", NEXT),
        ("2024-03-01T00:00:00+02:00", NEXT - timedelta(hours=2)),
        ("2024-03-01T00:00:00-0500", NEXT + timedelta(hours=5)),
        ("2024-03-01T02:00:00+02:00", DAY),
    ],
)
def test_a_headline_is_known_at_its_stamp_and_one_without_a_time_when_its_day_is_over(
    tmp_path: Path, stamp: str, known: datetime
) -> None:
    assert headline_of(tmp_path, stamp) == known


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_stamps_of_parquet_are_read_like_those_of_text(tmp_path: Path, zone: str | None) -> None:
    stamps = pl.Series(TS, [datetime(2024, 3, 1, 9, 30), datetime(2024, 3, 1)]).cast(pl.Datetime("us"))
    titles = pl.Series("title", ["a", "b"])
    pl.DataFrame([stamps.dt.replace_time_zone(zone), titles]).write_parquet(tmp_path / "news.parquet")
    offset = timedelta(hours=5 if zone == "America/New_York" else 0)
    known = read_headlines("news.parquet", tmp_path).sort(TEXT)[PUBLISHED_AT].to_list()
    assert known == [DAY + timedelta(hours=9, minutes=30) + offset, NEXT + offset]
    days = pl.DataFrame({"date": [date(2024, 3, 1)], FEAR_GREED: pl.Series([40], dtype=pl.Int16)})
    days.write_parquet(tmp_path / "index.parquet")
    assert read_fear_greed("index.parquet", tmp_path)[PUBLISHED_AT].to_list() == [NEXT]


def test_a_column_published_at_is_taken_at_its_word(tmp_path: Path) -> None:
    assert index_of(tmp_path, "2024-03-01T00:00:00Z", PUBLISHED_AT) == DAY
    assert headline_of(tmp_path, "2024-03-01T00:00:00Z", PUBLISHED_AT) == DAY
    text = "ts,published_at,value\n2024-02-29,2024-03-01T08:00Z,40\n"
    (tmp_path / "index.csv").write_text(text)
    assert read_fear_greed("index.csv", tmp_path)[PUBLISHED_AT].to_list() == [DAY + timedelta(hours=8)]


def test_a_day_without_a_time_is_known_when_it_is_over_in_published_at_as_well(tmp_path: Path) -> None:
    assert headline_of(tmp_path, "2024-03-01", PUBLISHED_AT) == NEXT
    assert index_of(tmp_path, "2024-03-01", PUBLISHED_AT) == NEXT
    days = pl.DataFrame({PUBLISHED_AT: [date(2024, 3, 1)], FEAR_GREED: [40]})
    days.write_parquet(tmp_path / "index.parquet")
    assert read_fear_greed("index.parquet", tmp_path)[PUBLISHED_AT].to_list() == [NEXT]


@pytest.mark.parametrize(("read", "column"), [(read_fear_greed, "value"), (read_headlines, "title")])
def test_nothing_is_published_before_what_it_is_about(
    read: Callable[[str, Path], pl.DataFrame], column: str, tmp_path: Path
) -> None:
    rows = "2024-02-29,2024-03-01T08:00Z,40\n2024-03-02,2024-03-01T23:59Z,50\n"
    (tmp_path / "early.csv").write_text(f"ts,published_at,{column}\n{rows}")
    with pytest.raises(DataError, match=r"early\.csv.* 3.*2024-03-01T23:59.* is before the ts of its own row"):
        read("early.csv", tmp_path)


def test_headlines_hold_commas_quotes_and_line_breaks_and_come_once(tmp_path: Path) -> None:
    text = (
        "ts,source,title,text\r\n"
        '2024-03-01T01:00Z,A,"Up, up ""and"" away",lead\r\n'
        '2024-03-01T01:00Z,B,"Up, up ""and"" away",another\r\n'
        '2024-03-01T02:00Z,A,"Two\nlines",lead\r\n'
        '2024-03-01T03:00Z,A,"","Only a lead, no title"\r\n'
    )
    (tmp_path / "news-1.csv").write_text("\ufeff" + text, encoding="utf-8", newline="")
    (tmp_path / "news-2.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "news-3.zip", "w") as archive:
        archive.writestr("news.csv", text)
    found = read_headlines("news-*", tmp_path).sort(PUBLISHED_AT)
    assert found[TEXT].to_list() == ['Up, up "and" away', "Two\nlines", "Only a lead, no title"]
    assert found[VALUE].null_count() == 3


@pytest.mark.parametrize(
    "head", ["ts,funding_rate", "fundingTime,fundingRate", "calc_time,last_funding_rate", "published_at,funding_rate"]
)
def test_a_funding_rate_is_known_when_it_is_settled(tmp_path: Path, head: str) -> None:
    (tmp_path / "BTCUSDT.csv").write_text(f"{head}\n1709251200008,-0.00012\n1709280000000,0.0001\n")
    found = read_funding("{pair}.csv", tmp_path, [MARKET])
    assert found[PUBLISHED_AT].to_list() == [DAY + timedelta(milliseconds=8), DAY + timedelta(hours=8)]
    assert found[VALUE].to_list() == [-0.00012, 0.0001]
    assert found[SYMBOL].unique().to_list() == ["BTC/USDT"]


def fear_greed(folder: Path) -> pl.DataFrame:
    return read_fear_greed("x.csv", folder)


def headlines(folder: Path) -> pl.DataFrame:
    return read_headlines("x.csv", folder)


def funding(folder: Path) -> pl.DataFrame:
    return read_funding("x.csv", folder, [MARKET])


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (
            fear_greed,
            "ts,value\n2024-03-01,40\n2024-03-02,101\n",
            r"x\.csv line 3: value '101' is no index from 0 to 100",
        ),
        (fear_greed, "ts,value\n2024-03-01,-1\n", r"line 2: value '-1' is no index"),
        (fear_greed, "ts,value\n2024-03-01,nan\n", r"line 2: value 'nan' is no index"),
        (fear_greed, "ts,value\n2024-03-01,\n", r"line 2: value '' is no index"),
        (fear_greed, "ts,value\n2024-03-01,high\n", r"line 2: value 'high' is not a number"),
        (fear_greed, "ts,value\n,40\n", r"line 2: ts '' is neither ISO 8601 nor an epoch time"),
        (fear_greed, "ts,value\n17,40\n", r"line 2: ts '17' is no epoch time"),
        (
            fear_greed,
            "ts,value\n2024-03-01,40\n2024-03-02,41\n2024-03-01,42\n",
            r"x\.csv line 4 says 42 and .*x\.csv line 2 says 40, both published at 2024-03-02T00:00Z: take one",
        ),
        (fear_greed, "day,value\n2024-03-01,40\n", r"no column of times .*those that it has are day, value"),
        (fear_greed, "ts,mood\n2024-03-01,40\n", r"no column of an index"),
        (fear_greed, "ts,value\n", r"holds no row"),
        (fear_greed, "", r"is empty"),
        (fear_greed, "<html>no</html>", r"is a web page"),
        (fear_greed, "ts,value\n2024-03-01,40\n2024-03", r"line 3 has 1 cells where 2 are needed.*cut short"),
        (fear_greed, "ts,ts\n1,2\n", r"names column ts twice"),
        (headlines, "ts,title\n2024-03-01,\n", r"line 2: title '' is no headline"),
        (headlines, "ts,title\n,Bitcoin\n", r"line 2: ts ''"),
        (headlines, 'ts,title\n2024-03-01,a\n2024-03-01,"Bitcoin rises to\nthe', r"line 3 is no row of a CSV"),
        (headlines, "ts,words\n2024-03-01,Bitcoin\n", r"no column of a headline"),
        (funding, "ts,funding_rate\n2024-03-01,inf\n", r"line 2: funding_rate 'inf' is no funding rate"),
        (funding, "ts,funding_rate\n2024-03-01,1.01\n", r"line 2: funding_rate '1.01' is no funding rate"),
        (funding, "ts,funding_rate\n2024-03-01,0.1\n2024-03-01,0.2\n", r"line 3 says 0.2 and .* line 2 says 0.1"),
        (funding, "ts,symbol,funding_rate\n2024-03-01,A,0\n2024-03-01,B,0\n", r"rates of several symbols"),
    ],
)
def test_a_row_that_cannot_be_is_refused_with_file_and_line(
    tmp_path: Path, read: Callable[[Path], pl.DataFrame], content: str, words: str
) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(DataError, match=words) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
    assert "x.csv" in str(error.value)


@pytest.mark.parametrize("read", [fear_greed, headlines, funding])
@pytest.mark.parametrize(
    "content", [b"PAR1 but not really", b"\x89PNG\r\n\x1a\n\xff", b"\x1f\x8b cut", b"PK\x03\x04 cut"]
)
def test_a_damaged_file_is_refused_with_its_name(
    tmp_path: Path, read: Callable[[Path], pl.DataFrame], content: bytes
) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.csv cannot be read") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fear_greed_daily", "crypto_news_2021_2022"])
def test_a_real_file_that_was_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    content = real_file(name, "sentiment").read_bytes()
    (tmp_path / "x.csv").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"x\.csv cannot be read"):
        read_headlines("x.csv", tmp_path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({TS: ["2024-03-01"], "title": [3]}, "Int64 in a column of title"),
        ({TS: [1.5], "title": ["a"]}, "Float64 in column ts, where times are needed"),
        ({TS: pl.Series([None], dtype=pl.Datetime("ms")), "title": ["a"]}, "row 1: ts None is no time"),
        ({TS: pl.Series([None], dtype=pl.Int64), "title": ["a"]}, "row 1: ts None is no"),
    ],
)
def test_a_parquet_column_of_the_wrong_type_is_refused(
    tmp_path: Path, columns: dict[str, list[object]], words: str
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "x.csv")
    with pytest.raises(DataError, match=words):
        headlines(tmp_path)
    pl.DataFrame({TS: ["2024-03-01"], "value": [[1.0]]}).write_parquet(tmp_path / "x.csv")
    with pytest.raises(DataError, match="in column value, where numbers are needed"):
        fear_greed(tmp_path)


def test_files_that_are_absent_or_stand_for_two_markets_are_named(tmp_path: Path) -> None:
    for read, key in ((fear_greed, "fear_greed"), (headlines, "headlines"), (funding, "funding")):
        with pytest.raises(DataError, match=rf"x\.csv does not exist: ingest\.{key} is 'x\.csv'"):
            read(tmp_path)
    (tmp_path / "x.csv").write_text("ts,funding_rate\n2024-03-01,0.1\n")
    with pytest.raises(DataError, match=r"ingest\.funding = 'x\.csv' gives .* one file cannot be both"):
        read_funding("x.csv", tmp_path, [MARKET, ETH])
    with pytest.raises(ConfigurationError, match=r"ingest\.funding = '\{coin\}\.csv' has \{coin\}"):
        read_funding("{coin}.csv", tmp_path, [MARKET])


def test_two_files_that_contradict_each_other_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ts,value\n2024-03-01,40\n")
    (tmp_path / "b.csv").write_text("ts,value\n2024-03-01,40\n")
    assert len(read_fear_greed("*.csv", tmp_path)) == 1
    (tmp_path / "b.csv").write_text("ts,value\n2024-03-01,41\n")
    with pytest.raises(DataError, match=r"b\.csv line 2 says 41 and .*a\.csv line 2 says 40"):
        read_fear_greed("*.csv", tmp_path)


def test_real_headlines_at_midnight_to_the_second_tell_the_day_alone() -> None:
    path = real_file("crypto_news_2021_2022", "sentiment")
    raw = pl.read_parquet(path)
    found = read_headlines(path.name, FOLDER / "sentiment")
    at_midnight = found.filter(pl.col(PUBLISHED_AT).dt.time() == datetime.min.time())
    moved = raw.filter(pl.col(TS).dt.time() == datetime.min.time())
    assert len(moved) == 129
    assert sorted(at_midnight[PUBLISHED_AT]) == sorted(moved[TS].dt.offset_by("1d"))
    assert found.filter(pl.col(TEXT) == "").is_empty()
