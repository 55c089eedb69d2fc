"""Feeds over a real web server on loopback."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.config_ingest import IngestConfig
from gatecast.errors import DataError, NetworkFault
from gatecast.market.publications.feeds import collect_feeds, feed_file, known, merge_entries, read_entries
from gatecast.market.publications.syndication import ENTRY_SCHEMA, entries_in
from gatecast.market.publications.table import HEADLINES, PUBLICATION_SCHEMA, PUBLISHED_AT, SOURCE, TEXT
from tests.market.feed_server import FeedServer, atom, entry, feed_server, item, rss

NOW = datetime(2024, 5, 1, 15, 30, 0, 123_000, tzinfo=UTC)
DAY = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with feed_server() as served:
        yield served


@pytest.fixture
def ingest(config: Config) -> IngestConfig:
    return config.ingest.model_copy(update={"timeout_s": 2.0})


async def no_sleep(seconds: float) -> None:
    del seconds
    await asyncio.sleep(0)


def collected(config: IngestConfig, folder: Path, *addresses: str) -> tuple[pl.DataFrame, list[str]]:
    said: list[str] = []
    of = config.model_copy(update={"feeds": addresses})
    found = collect_feeds(of, folder, said.append, no_sleep).sort(PUBLISHED_AT, TEXT)
    assert found.schema == PUBLICATION_SCHEMA
    assert set(found[SOURCE]) <= {HEADLINES}
    return found, said


def read(document: bytes, at: datetime = NOW) -> dict[str, datetime]:
    entries = entries_in(document, at)
    return dict(zip(entries[TEXT], entries[PUBLISHED_AT], strict=True))


def test_rss_and_atom_are_read_and_kept(server: FeedServer, ingest: IngestConfig, tmp_path: Path) -> None:
    server.pages["/rss"] = rss(item("Bitcoin &amp; Ether rise", "Wed, 01 May 2024 14:00:00 +0200", "1"))
    server.pages["/atom"] = atom(entry("Miners sell", "2024-05-01T09:15:00Z", "2024-05-01T09:20:00Z"))
    addresses = (f"{server.url}/rss", f"{server.url}/atom?key=hidden")
    found, said = collected(ingest, tmp_path, *addresses)
    assert found[TEXT].to_list() == ["Miners sell", "Bitcoin & Ether rise"]
    assert found[PUBLISHED_AT].to_list() == [DAY.replace(hour=9, minute=20), DAY.replace(hour=12)]
    assert {agent for _, agent in server.asked} == {"gatecast"}
    assert said[0] == f"ingest: feed {server.url}/rss: 1 new headlines"
    server.pages["/rss"] = rss(item("Another", "Wed, 01 May 2024 15:00:00 GMT", "2"))
    found, said = collected(ingest, tmp_path, *addresses)
    assert found[TEXT].to_list() == ["Miners sell", "Bitcoin & Ether rise", "Another"]
    assert said[1] == f"ingest: feed {server.url}/atom: 0 new headlines"
    everything = " ".join([*said, *map(str, tmp_path.rglob("*"))])
    assert "hidden" not in everything


def test_only_feeds_that_are_configured_count(server: FeedServer, ingest: IngestConfig, tmp_path: Path) -> None:
    for name in ("a", "b"):
        server.pages[f"/{name}"] = rss(item(name, "Wed, 01 May 2024 14:00:00 GMT"))
    collected(ingest, tmp_path, f"{server.url}/a", f"{server.url}/b")
    assert collected(ingest, tmp_path, f"{server.url}/b")[0][TEXT].to_list() == ["b"]


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        ("Wed, 01 May 2024 14:07:09 GMT", DAY.replace(hour=14, minute=7, second=9)),
        ("Wed, 01 May 2024 14:00:00 -0100", DAY.replace(hour=15)),
        ("2024-05-01T14:00:00Z", DAY.replace(hour=14)),
        ("2024-05-01T14:00:00+00:00", DAY.replace(hour=14)),
        ("2024-05-01T14:00-00:00", DAY.replace(hour=14)),
        (None, NOW),
        ("soon", NOW),
        ("Wed, 01 May 2030 14:00:00 GMT", NOW),
        ("2024-05-01", NOW),  # the day is not over
        ("Wed, 01 May 2024 00:00:00 GMT", NOW),
        ("2024-04-29", DAY - timedelta(days=1)),
        ("Mon, 29 Apr 2024 00:00:00 GMT", DAY - timedelta(days=1)),
        ("Mon, 29 Apr 2024 00:00:00 +0200", DAY - timedelta(days=1, hours=2)),
    ],
)
def test_an_entry_is_known_at_its_stamp_and_never_after_it_was_read(stamp: str | None, at: datetime) -> None:
    assert read(rss(item("a", stamp))) == {"a": at}


def test_an_entry_that_was_updated_is_known_since_then() -> None:
    stamps = {
        "a": ("2024-05-01T09:00:00Z", "2024-05-01T10:00:00Z"),
        "b": ("2024-05-01T09:00:00Z", None),
        "c": (None, "2024-05-01T10:00:00Z"),
        "d": ("2024-05-01T09:00:00Z", "2030-05-01T10:00:00Z"),
    }
    found = read(atom(*(entry(title, *each) for title, each in stamps.items())))
    hours = {title: DAY.replace(hour=hour) for title, hour in (("a", 10), ("b", 9), ("c", 10))}
    assert found == hours | {"d": NOW}


def test_markup_and_white_space_are_no_part_of_a_headline() -> None:
    titles = [
        "<![CDATA[A &amp; B <i>fall</i>]]>",
        "\n  Two\n lines ",
        "5 &lt; 6 and 7 &gt; 6",
        "",
        "<![CDATA[<b></b>]]>",
    ]
    assert list(read(rss(*map(item, titles)))) == ["A & B fall", "Two lines", "5 < 6 and 7 > 6"]


def test_an_entry_without_a_date_keeps_the_moment_of_its_first_reading(tmp_path: Path) -> None:
    path, document = tmp_path / "a.parquet", rss(item("a"), item("b", guid="1"))
    for hours in (0, 1, 2):
        merge_entries(path, entries_in(document, NOW + timedelta(hours=hours)))
    assert known(read_entries(path)).sort(TEXT).rows() == [(NOW, "a"), (NOW, "b")]


def test_an_edited_headline_counts_from_when_it_was_read_and_the_first_stays(tmp_path: Path) -> None:
    path, stamp = tmp_path / "a.parquet", "Wed, 01 May 2024 09:00:00 GMT"
    later = NOW + timedelta(hours=5)
    merge_entries(path, entries_in(rss(item("Bitcoin rises", stamp, "1")), NOW))
    merge_entries(path, entries_in(rss(item("Bitcoin crashes", stamp, "1"), item("New", stamp, "2")), later))
    nine = DAY.replace(hour=9)
    assert sorted(known(read_entries(path)).rows()) == [
        (nine, "Bitcoin rises"),
        (nine, "New"),
        (later, "Bitcoin crashes"),
    ]


Row = tuple[str, datetime, str, datetime]
HOURS = st.integers(0, 5).map(lambda hours: NOW + timedelta(hours=hours))
ROWS = st.lists(st.tuples(st.sampled_from("ab"), HOURS, st.sampled_from("xy"), HOURS), max_size=6)


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(ROWS, min_size=1, max_size=4), order=st.randoms(use_true_random=False))
def test_merging_is_idempotent_and_order_free(batches: list[list[Row]], order: object) -> None:
    frames = [pl.DataFrame(rows, schema=ENTRY_SCHEMA, orient="row") for rows in batches]
    with TemporaryDirectory() as folder:
        first, second = Path(folder) / "first.parquet", Path(folder) / "second.parquet"
        for frame in frames:
            merge_entries(first, frame)
        shuffled = [*frames, *frames]
        order.shuffle(shuffled)  # type: ignore[attr-defined]  # of random.Random
        for frame in shuffled:
            merge_entries(second, frame)
        assert read_entries(first).equals(read_entries(second))


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_no_other_headline_of_an_entry_is_known_before_it_was_read(rows: list[Row]) -> None:
    entries = pl.DataFrame(rows, schema=ENTRY_SCHEMA, orient="row")
    first_reading = {name: min(read_at for other, _, _, read_at in rows if other == name) for name, *_ in rows}
    for (name, stamp, text, read_at), (at, told) in zip(rows, known(entries).rows(), strict=True):
        edited = read_at > first_reading[name]
        assert (at, told) == (max(stamp, read_at) if edited else stamp, text)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ([500], "HTTP 500"),
        ([404], "HTTP 404"),
        (b"<html><body>hi</body></html>", "neither RSS nor Atom"),
        (b"", "neither RSS nor Atom"),
        (b'{"version": "https://jsonfeed.org"}', "neither RSS nor Atom"),
        (rss(item("a"), item("Bitcoin rises to"))[:-60], "cut short"),
        (b"\x00\xff\x00\xff", "neither RSS nor Atom"),
    ],
)
def test_a_feed_that_cannot_be_read_is_a_warning_and_the_others_go_on(
    server: FeedServer, ingest: IngestConfig, tmp_path: Path, page: bytes | list[int | bytes], words: str
) -> None:
    server.pages |= {"/good": rss(item("a", "Wed, 01 May 2024 09:00:00 GMT")), "/bad": page}
    found, said = collected(ingest, tmp_path, f"{server.url}/bad?token=hidden", f"{server.url}/good")
    assert found[TEXT].to_list() == ["a"]
    (warning,) = (line for line in said if "/bad" in line)
    assert warning.startswith(f"ingest: feed {server.url}/bad: ")
    assert words in warning
    assert "\n" not in warning
    assert "hidden" not in warning
    with pytest.raises(NetworkFault, match=r"no feed could be read, and no headline is kept: http.*/bad: ") as error:
        collected(ingest, tmp_path, f"{server.url}/bad?token=hidden")
    assert "hidden" not in str(error.value)


def test_a_feed_with_a_mistake_in_the_middle_is_read(server: FeedServer) -> None:
    del server
    assert list(read(rss(item("Bitcoin&nbsp;rises"), item("b")))) == ["Bitcoin rises", "b"]
    assert list(read(rss(item("caf\u00e9")).replace("\u00e9".encode(), b"\xe9"))) == ["caf\u00e9"]
    assert read(rss()) == {}


def test_what_is_kept_counts_when_no_feed_can_be_read(server: FeedServer, ingest: IngestConfig, tmp_path: Path) -> None:
    server.pages["/a"] = rss(item("a", "Wed, 01 May 2024 09:00:00 GMT"))
    collected(ingest, tmp_path, f"{server.url}/a")
    server.pages["/a"] = [503]
    found, said = collected(ingest, tmp_path, f"{server.url}/a")
    assert found[TEXT].to_list() == ["a"]
    assert "goes on with what is kept of it" in said[0]


def test_a_server_that_fails_once_is_asked_again_and_one_that_refuses_is_not(
    server: FeedServer, ingest: IngestConfig, tmp_path: Path
) -> None:
    server.pages["/a"] = [502, rss(item("a", "Wed, 01 May 2024 09:00:00 GMT"))]
    assert collected(ingest, tmp_path, f"{server.url}/a")[0][TEXT].to_list() == ["a"]
    server.asked.clear()
    with pytest.raises(NetworkFault):
        collected(ingest, tmp_path, f"{server.url}/absent")
    assert len(server.asked) == 1


def test_an_answer_that_ends_early_or_never_comes_is_a_fault(
    server: FeedServer, ingest: IngestConfig, tmp_path: Path
) -> None:
    server.pages["/a"] = rss(item("a"))
    server.short = 40
    with pytest.raises(NetworkFault, match="40 bytes"):
        collected(ingest, tmp_path, f"{server.url}/a")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(NetworkFault, match="timed out"):
            collected(ingest.model_copy(update={"timeout_s": 0.1}), tmp_path, address)
    with pytest.raises(NetworkFault, match="refused"):
        collected(ingest, tmp_path, address)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_redirection_leads_to_the_web_alone(server: FeedServer, ingest: IngestConfig, tmp_path: Path) -> None:
    server.pages["/b"] = rss(item("b", "Wed, 01 May 2024 09:00:00 GMT"))
    (tmp_path / "feed.xml").write_bytes(rss(item("from a file")))
    server.redirects = {"/a": f"{server.url}/b", "/c": f"file://{tmp_path / 'feed.xml'}", "/d": "ftp://127.0.0.1/x"}
    assert collected(ingest, tmp_path, f"{server.url}/a")[0][TEXT].to_list() == ["b"]
    for path in ("/c", "/d"):
        with pytest.raises(NetworkFault):
            collected(ingest, tmp_path, f"{server.url}{path}")


def test_a_document_without_an_end_is_given_up(
    server: FeedServer, ingest: IngestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatecast.market.publications.feeds._MOST_BYTES", 1000)
    server.pages["/a"] = rss(*(item("a" * 50) for _ in range(100)))
    with pytest.raises(NetworkFault, match="and no end of them"):
        collected(ingest, tmp_path, f"{server.url}/a")


def test_a_kept_file_that_is_damaged_is_named_and_left_as_it_is(
    server: FeedServer, ingest: IngestConfig, tmp_path: Path
) -> None:
    server.pages["/a"] = rss(item("a", "Wed, 01 May 2024 09:00:00 GMT"))
    address = f"{server.url}/a"
    collected(ingest, tmp_path, address)
    path = feed_file(tmp_path, address)
    for content in (path.read_bytes()[:-9], b"", b"PAR1 but not really"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"127\.0\.0\.1-[0-9a-f]{12}\.parquet cannot be read") as error:
            collected(ingest, tmp_path, address)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content
