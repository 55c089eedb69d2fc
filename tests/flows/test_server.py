import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from flows.server import embedded_server
from gatecast.errors import GatecastError

FLOW = """
import pathlib, sys, time
from flows.server import embedded_server
with embedded_server(print) as url:
    print("up", url, flush=True)
    from prefect import flow, task
    from prefect.artifacts import create_markdown_artifact
    @task
    def step(number):
        if number == 1:
            pathlib.Path("middle.txt").write_text("")
            time.sleep(float(sys.argv[1]))
        return number
    @flow
    def chain():
        create_markdown_artifact("six", key="answer")
        return [step(number) for number in range(3)]
    assert chain() == [0, 1, 2]
print("down", flush=True)
"""
ROOT = Path(__file__).parents[2]


def start_flow(folder: Path, pause_s: float) -> subprocess.Popen[str]:
    """A process that runs a flow of three tasks, the second of which takes `pause_s`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    own = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "true",
        "HTTP_PROXY": "http://127.0.0.1:9",  # nobody listens there; loopback needs no proxy
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-c", FLOW, str(pause_s)],
        cwd=folder,
        env=environment | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def within(seconds: float, condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def server_of(parent: subprocess.Popen[str]) -> psutil.Process:
    return next(child for child in psutil.Process(parent.pid).children() if "flows.server" in child.cmdline())


def recorded(folder: Path) -> dict[str, list[str]]:
    """States of the task and flow runs and the keys of the artifacts, as the database has them."""
    queries = {
        "tasks": "select state_type from task_run order by 1",
        "flows": "select state_type from flow_run order by 1",
        "artifacts": "select key from artifact",
    }
    connection = sqlite3.connect(folder / "prefect" / "prefect.db")
    try:
        return {name: [row[0] for row in connection.execute(query)] for name, query in queries.items()}
    finally:
        connection.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """The folder of a flow that has run to its end, what it printed and its exit status; the first start takes 10 s."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "prefect").mkdir()
    process = start_flow(folder, 0.0)
    printed, _ = process.communicate(timeout=120)
    return folder, printed, process.returncode


@pytest.fixture
def folder(finished: tuple[Path, str, int], tmp_path: Path) -> Path:
    """A folder with a database that is set up already and holds one finished run."""
    shutil.copytree(finished[0] / "prefect", tmp_path / "prefect")
    return tmp_path


@pytest.mark.slow
def test_runs_and_artifacts_of_a_short_flow_are_on_record_with_their_final_states(
    finished: tuple[Path, str, int],
) -> None:
    folder, printed, status = finished
    assert status == 0, printed
    assert recorded(folder) == {"tasks": ["COMPLETED"] * 3, "flows": ["COMPLETED"], "artifacts": ["answer"]}


@pytest.mark.slow
def test_ended_block_leaves_no_server_and_says_nothing_of_its_own(finished: tuple[Path, str, int]) -> None:
    _, printed, _ = finished
    first, last = printed.splitlines()
    port = int(first.removesuffix("/api").rpartition(":")[2])
    assert last == "down"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_server_ends_within_seconds_of_a_killed_parent(folder: Path) -> None:
    process = start_flow(folder, 60.0)
    assert within(60, (folder / "middle.txt").exists)
    server = server_of(process)
    process.kill()
    process.wait()
    psutil.wait_procs([server], timeout=8)
    assert not server.is_running()


@pytest.mark.slow
def test_flow_whose_server_is_killed_goes_on_with_a_new_one_and_stays_on_record(folder: Path) -> None:
    process = start_flow(folder, 2.0)
    assert within(60, (folder / "middle.txt").exists)
    server_of(process).kill()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    assert "died; starting it again" in printed
    assert recorded(folder)["flows"] == ["COMPLETED"] * 2


def test_server_that_cannot_start_says_why_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    said = "Traceback:\n  File\nsqlalchemy.exc.DatabaseError: file is not a database\n[SQL]\nERROR:  Exiting."
    (tmp_path / "uvicorn.py").write_text(f"raise SystemExit({said!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(GatecastError, match=r"its start: .*: file is not a database$"), embedded_server(print):
        pass


def test_server_that_the_user_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as own:  # answers 501, which is an answer
        threading.Thread(target=own.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{own.server_port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        with embedded_server(print) as address:
            assert address == url
        own.shutdown()
    with pytest.raises(GatecastError, match="no Prefect server answers at PREFECT_API_URL"), embedded_server(print):
        pass
    assert not any("flows.server" in child.cmdline() for child in psutil.Process().children())
