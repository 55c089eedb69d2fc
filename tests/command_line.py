"""gatecast and DVC as processes in a workspace of a test, and what they leave behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

LIMIT_S = 240

# the shipped configuration with a smaller search and a single network
SMALL = [
    *("--set", "tune.n_trials=2"),
    *("--set", "tune.max_epochs=8"),
    *("--set", "model.n_seeds=1"),
    *("--set", "features.n_leak_cuts=4"),
    *("--set", "evaluate.baselines=[naive, ewma]"),
]


def environment(root: Path) -> dict[str, str]:
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PREFECT", "GATECAST"))
    }
    return {**inherited, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}


def gatecast(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gatecast.cli", *arguments]
    return subprocess.run(
        command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command,
        cwd=root,
        env={**environment(root), "PATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def left_behind(root: Path) -> list[str]:
    """Command lines of living processes that belong to a workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and (process.cwd() == str(root) or str(root) in words):
                found.append(words)
        except psutil.Error:
            continue
    return found


def wait_until_none_is_left(root: Path, limit_s: float = 60) -> list[str]:
    deadline = time.monotonic() + limit_s
    while (found := left_behind(root)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found
