"""Several real processes that ingest the same market at once."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from gatecast.market.candles import TS
from gatecast.market.exchange import URL_VARIABLE
from gatecast.market.gaps import read_gaps
from gatecast.market.revisions import read_revisions
from gatecast.market.sample import read_sample
from gatecast.market.store import Store, read_candles
from tests.benches.run import copy_workspace
from tests.command_line import environment, gatecast
from tests.conftest import MARKET, REPOSITORY
from tests.venue import DUPLICATES, OVERLAP, RESET, SHUFFLED, STALE, StandInExchange

RECENT = read_sample(MARKET).tail(5000)
NOW = RECENT[TS][-1] + (RECENT[TS][1] - RECENT[TS][0]) / 2  # half way through the last candle
HOLE = (datetime(2023, 10, 9, tzinfo=UTC), datetime(2023, 10, 9, 7, tzinfo=UTC))
HOLED = RECENT.filter(~pl.col(TS).is_between(*HOLE, closed="left"))
FETCH = """
import sys
from datetime import datetime
from pathlib import Path
from ruamel.yaml import YAML
from gatecast.config_parsing import parse_config
from gatecast.market import intake
from gatecast.market.candles import Market
from gatecast.market.fetch import fetch
from gatecast.market.store import Store

intake._FLUSH_S = 0.02  # merges meet often
params, candles, ledger, *span = sys.argv[1:]
start, end = map(datetime.fromisoformat, span)
config = parse_config(YAML(typ="safe").load(Path(params)), params).ingest
config = config.model_copy(update={"source": "exchange", "start": start, "end": end, "page_limit": 10})
fetch(config, [Market("binance", "BTC/USDT", "1h")], Store(Path(candles), Path(ledger)), print)
"""


def started(command: list[str], root: Path, exchange: StandInExchange) -> "subprocess.Popen[str]":
    variables = {**environment(root), URL_VARIABLE: exchange.url}
    return subprocess.Popen(command, cwd=root, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(processes: list["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    """Status and words of each."""
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, "".join(words)) for process, words in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_two_processes_that_fetch_parts_of_a_month_and_the_whole_leave_the_truth_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "candles", tmp_path / "ledger")
    arguments = [str(REPOSITORY / "conf" / "params.yaml"), str(store.candles), str(store.ledger)]
    command = [sys.executable, "-c", FETCH, *arguments]
    begin, middle, end = (datetime(2023, 10, day, tzinfo=UTC) for day in (1, 15, 29))
    with StandInExchange(HOLED, NOW, [200, RESET, DUPLICATES, 503, SHUFFLED, STALE, OVERLAP] * 9, 0.02) as exchange:
        for spans in ([(begin, middle), (middle, end)], [(begin, end)] * 2):
            processes = [started([*command, *map(str, span)], REPOSITORY, exchange) for span in spans]
            outcomes = ended(processes)
            assert [status for status, _ in outcomes] == [0, 0], outcomes
            truth = exchange.truth().filter(pl.col(TS).is_between(begin, end, closed="left"))
            assert read_candles(store.candles, MARKET).equals(truth)
            assert read_revisions(store.ledger, MARKET).is_empty()
    assert read_gaps(store.ledger, MARKET).select("start", "end").rows() == [(HOLE[0], HOLE[1])]
    assert {path.suffix for path in store.candles.rglob("*") if path.is_file()} == {".parquet"}


@pytest.mark.slow
def test_a_second_ingest_of_a_workspace_says_that_it_waits_and_then_asks_for_what_is_new(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    copy_workspace(root)
    span = ["--set", "ingest.source=exchange", "--set", f"ingest.start={RECENT[TS][0].isoformat()}"]
    with StandInExchange(RECENT, NOW, latency_s=0.5) as exchange:
        configured = gatecast(root, "configure", *span)
        assert configured.returncode == 0, configured.stderr
        command = [sys.executable, "-m", "gatecast.cli", "ingest"]
        outcomes = ended([started(command, root, exchange) for _ in range(2)])
        truth, n_requests = exchange.truth(), len(exchange.requests)
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    waited = [words for _, words in outcomes if "another gatecast process is at work" in words]
    assert len(waited) == 1
    assert "0 new candles" in waited[0]
    assert n_requests <= -(-len(truth) // 999) + 1 + 1
    assert read_candles(root / "data" / "candles", MARKET).equals(truth)
    assert (root / "data" / "raw.dvc").is_file()
