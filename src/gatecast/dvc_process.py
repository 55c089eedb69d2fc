"""DVC as a process, in a group of its own and writing to a file instead of a pipe.

If this process is killed outright, DVC and its stage go on to their end, and the next run waits for them. While this
process lives, none of theirs outlives a call.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from gatecast.dvc_lock import GRACE_S, await_others
from gatecast.errors import GatecastError
from gatecast.workspace import RELAYED_VARIABLE, Workspace, raise_if_full

_POLL_S: Final = 0.1
LOCK_BACKOFFS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # DVC itself has waited 3 s for each try
_LOCK_BUSY: Final = ("Unable to acquire lock", "is busy, it is being blocked by")


class Ended(NamedTuple):
    """How a DVC process ended; a negative status is the signal that killed it."""

    status: int
    lines: list[str]

    @property
    def error(self) -> str:
        """DVC's last word on what went wrong."""
        errors = [line.removeprefix("ERROR:").strip() for line in self.lines if line.startswith("ERROR:")]
        spoken = [line.strip() for line in self.lines if line.strip()]
        return (errors or spoken or ["it said nothing"])[-1]

    @property
    def lock_busy(self) -> bool:
        """Whether it gave up because another DVC process holds its lock."""
        return self.status > 0 and any(words in self.error for words in _LOCK_BUSY)


def run_dvc(
    workspace: Workspace,
    arguments: list[str],
    *,
    log: Path,
    say: Callable[[str], None],
    relay: Callable[[str], None] | None,
) -> Ended:
    """Run DVC once the way is free, again while another process keeps its lock."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for backoff_s in (*LOCK_BACKOFFS_S, None):
        await_others(workspace, say)
        workspace.failure.unlink(missing_ok=True)
        ended = _run_once(workspace, arguments, log, relay)
        if ended.status != 0:
            raise_if_full(workspace.root)  # neither DVC nor its log can tell
        if not ended.lock_busy or workspace.failure.exists():
            return ended
        if backoff_s is not None:
            say(f"another DVC process is at work in {workspace.root}; trying again in {backoff_s:g} s")
            time.sleep(backoff_s)
    raise GatecastError(f"another DVC process keeps its lock on {workspace.root}: {ended.error}; wait for it or end it")


def _run_once(workspace: Workspace, arguments: list[str], log: Path, relay: Callable[[str], None] | None) -> Ended:
    with _sigterm_raises(), log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=workspace.root,
            env=environment(workspace),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            lines = _follow(process, log, relay)
        finally:
            if process.poll() != 0:  # a stage whose DVC was killed lives on, as do the workers of a killed stage
                _end_group(process)
    return Ended(process.returncode, lines)


def _follow(process: subprocess.Popen[bytes], log: Path, relay: Callable[[str], None] | None) -> list[str]:
    """The lines of the log, each relayed as soon as it is complete, until the process has ended."""
    lines: list[str] = []
    partial = b""
    with log.open("rb") as reader:
        ended = False
        while not ended:
            try:
                process.wait(_POLL_S)
                ended = True  # what it wrote last is read below
            except subprocess.TimeoutExpired:
                pass
            *complete, partial = (partial + reader.read()).split(b"\n")
            for line in [*complete, *([partial] if ended and partial else [])]:
                lines.append(line.decode(errors="replace").rstrip("\r"))
                if relay:
                    relay(lines[-1])
    return lines


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that DVC is ended too, unless someone (a Prefect flow) handles it already."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def exit_by_signal(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, exit_by_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End all that is left of a process group, whose leader `process` is."""
    try:
        _signal_group(process, signal.SIGTERM)
        _await_group(process)
    finally:  # a second Ctrl-C goes straight to here
        _signal_group(process, signal.SIGKILL)
        _await_group(process)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the group; False if nothing of it is left."""
    process.poll()  # a leader that is not reaped counts as a member
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS: all that is left are zombies
        return False
    return True


def _await_group(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + GRACE_S
    while _signal_group(process, 0) and time.monotonic() < deadline:
        time.sleep(0.02)


def environment(workspace: Workspace) -> dict[str, str]:
    """The environment in which DVC and its stages run the code of the workspace."""
    source = [str(workspace.root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    programs = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(source),  # a worktree runs its own code, not the installed one
        "PATH": os.pathsep.join(programs),  # `python` in dvc.yaml is this one
        RELAYED_VARIABLE: "1",
        "PYTHONUNBUFFERED": "1",  # else the stage's progress would come with its end
    }
