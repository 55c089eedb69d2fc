import errno
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatecast.errors import ConfigurationError, GatecastError
from gatecast.workspace import Workspace, find_workspace, write_atomically
from tests.conftest import REPOSITORY

HOLDER = """
import sys, time
from pathlib import Path
from gatecast.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock("workspace", print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_outside_a_clone_of_gatecast_there_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not inside a git clone"):
        find_workspace(tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(ConfigurationError, match="not of gatecast"):
        find_workspace(tmp_path)
    with pytest.raises(ConfigurationError, match="is not a folder"):
        find_workspace(tmp_path / "absent")


def test_a_folder_inside_the_clone_finds_its_root() -> None:
    assert find_workspace(REPOSITORY / "src" / "gatecast").root == REPOSITORY


def test_what_stood_there_survives_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def full(temporary: Path) -> None:
        temporary.write_text("half of wh")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(GatecastError, match="No space left on device"):
        write_atomically(path, full)
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_second_run_says_that_it_waits_and_a_killed_holder_leaves_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        killer = subprocess.Popen([sys.executable, "-c", f"import time, os; time.sleep(1); os.kill({holder.pid}, 9)"])
        start = time.monotonic()
        with Workspace(tmp_path).lock("workspace", said.append):
            waited = time.monotonic() - start
        killer.wait()
    assert waited > 0.5
    assert said == [f"another gatecast process is at work in {tmp_path}; waiting for it to end"]


def test_a_full_disk_is_one_line_even_where_a_library_names_it_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("out of specification")

    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "x", write)
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(GatecastError, match=r"the disk that holds .* is full"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []
