"""`gatecast ingest` in a workspace whose data lie on a disk that is full."""

import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from gatecast.market.candles import TS
from gatecast.market.exchange import URL_VARIABLE
from gatecast.market.sample import read_sample
from gatecast.market.store import read_candles
from tests import command_line
from tests.benches.run import copy_workspace
from tests.command_line import gatecast
from tests.conftest import MARKET
from tests.venue import StandInExchange

pytestmark = pytest.mark.slow

RECENT = read_sample(MARKET).tail(5000)
NOW = RECENT[TS][-1] + timedelta(minutes=30)  # half way through the last candle


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """A copy of this one, with 4 MB of disk for its data."""
    root = tmp_path.resolve()
    copy_workspace(root)
    data = root / "data"
    tracked = {path: path.read_bytes() for path in data.iterdir()} if data.is_dir() else {}
    data.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(data)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root only, and not in every container")
    try:
        for path, content in tracked.items():
            path.write_bytes(content)
        yield root
    finally:
        subprocess.run(["umount", str(data)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                continue
    return filler


def stored(root: Path) -> dict[str, bytes]:
    """Every file of the store and its ledger."""
    found = [path for name in ("candles", "ledger") for path in (root / "data" / name).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found}


def test_a_full_disk_is_one_line_and_status_1_and_the_store_is_as_before(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandInExchange(RECENT, RECENT[TS][2500]) as exchange:
        environment = command_line.environment
        monkeypatch.setattr(command_line, "environment", lambda root: {**environment(root), URL_VARIABLE: exchange.url})
        first = gatecast(
            workspace,
            *("ingest", "--set", "ingest.source=exchange"),
            *("--set", f"ingest.start={RECENT[TS][0].isoformat()}"),
        )
        assert first.returncode == 0, first.stderr
        before, params = stored(workspace), (workspace / "conf" / "params.yaml").read_bytes()
        frozen = (workspace / "data" / "raw.dvc").read_bytes()
        filler = fill(workspace / "data")
        exchange.advance(NOW)
        refused = gatecast(workspace, "ingest")
        assert refused.returncode == 1
        assert stored(workspace) == before
        assert (workspace / "data" / "raw.dvc").read_bytes() == frozen
        assert (workspace / "conf" / "params.yaml").read_bytes() == params
        last = refused.stderr.splitlines()[-1]
        assert last.startswith("gatecast: ")
        assert "full" in last or "No space left" in last
        assert "Traceback" not in refused.stderr
        filler.unlink()
        again = gatecast(workspace, "ingest")
        assert again.returncode == 0, again.stderr
        assert read_candles(workspace / "data" / "candles", MARKET).equals(exchange.truth())
