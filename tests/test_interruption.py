"""Runs whose processes are killed outright, and what the next one makes of it."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.benches.run import copy_workspace
from tests.command_line import SMALL, dvc, environment, gatecast, wait_until_none_is_left

pytestmark = pytest.mark.slow


def test_after_kills_the_next_run_completes_with_the_same_result_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    root = tmp_path.resolve()
    copy_workspace(root)
    command = [sys.executable, "-m", "gatecast.cli"]
    # the caller dies: DVC and its stage go on, and the next one waits for them
    _kill_at(root, [*command, "run", *SMALL], "trial 1/2", "gatecast.cli")
    # a stage dies: its caller says so in one line
    status, rest = _kill_at(root, [*command, "evaluate"], "evaluate: fold 1/", "gatecast.steps.evaluate")
    assert status == 1
    assert "gatecast: stage evaluate was killed" in rest
    assert "Traceback" not in rest
    again = gatecast(root, "run", "--json")
    assert again.returncode == 0, again.stderr
    assert wait_until_none_is_left(root) == []
    before = (root / "dvc.lock").read_bytes()
    rebuilt = dvc(root, "repro", "--force")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert (root / "dvc.lock").read_bytes() == before
    assert "up to date" in dvc(root, "repro").stdout


def _kill_at(root: Path, command: list[str], word: str, module: str) -> tuple[int, str]:
    """Start a command and kill -9 one of its processes at a word of its progress; its status and later words."""
    with subprocess.Popen(
        command, cwd=root, env=environment(root), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if line.startswith(word)), None)
        assert said, f"the run ended without a line that starts with {word!r}"
        (victim,) = [each for each in psutil.process_iter() if _runs(each, root, module)]
        victim.send_signal(signal.SIGKILL)
        rest = process.stderr.read()
    return process.returncode, rest


def _runs(process: psutil.Process, root: Path, module: str) -> bool:
    try:
        return process.cwd() == str(root) and process.cmdline()[1:3] == ["-m", module]
    except (psutil.Error, IndexError):
        return False
