import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gatecast import dvc_process, pipeline
from gatecast.errors import ConfigurationError, GatecastError, StageFailed
from gatecast.workspace import Workspace

STAGE = """
import json, os, pathlib, signal, sys, time
name, deed = sys.argv[1], pathlib.Path("deed.txt").read_text()
with open("runs.txt", "a") as runs:
    runs.write(name + chr(10))
pathlib.Path("pid.part").write_text(str(os.getpid()))
os.replace("pid.part", "pid.txt")
print("progress of", name)
if deed == "refuse":
    failure = {"stage": name, "status": 3, "line": "too many holes"}
    pathlib.Path(".gatecast/failure.json").write_text(json.dumps(failure))
    sys.exit(3)
if deed == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if deed == "crash":
    raise RuntimeError("unforeseen")
if deed == "linger":
    time.sleep(2)
if deed == "hang":
    time.sleep(60)
pathlib.Path(name + ".txt").write_text(name + pathlib.Path("input.txt").read_text())
pathlib.Path("source.txt").write_text(os.environ["PYTHONPATH"].split(os.pathsep)[0])
"""
DVC_YAML = """
stages:
  second:
    cmd: python stage.py second
    deps: [first.txt]
    outs:
    - second.txt: {cache: false}
  first:
    cmd: python stage.py first
    deps: [input.txt]
    outs: [first.txt]
"""
PARENT = """
import pathlib, sys
from gatecast import pipeline
from gatecast.workspace import Workspace
pipeline.reproduce(Workspace(pathlib.Path.cwd()), "first", alone=True, say=print)
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    files = {".dvc/config": "", "stage.py": STAGE, "dvc.yaml": DVC_YAML, "input.txt": "1", "deed.txt": "work"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / ".gatecast").mkdir()
    return Workspace(tmp_path)


@pytest.fixture
def parent(workspace: Workspace) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that reproduces `first`."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], cwd=workspace.root, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def reproduce(
    workspace: Workspace, stage: str = "first", *, alone: bool = True, say: Callable[[str], None] = print
) -> pipeline.Outcome:
    return pipeline.reproduce(workspace, stage, alone=alone, say=say)


def order(workspace: Workspace, deed: str) -> None:
    (workspace.root / "deed.txt").write_text(deed)


def runs(workspace: Workspace) -> list[str]:
    return (workspace.root / "runs.txt").read_text().split()


def within(seconds: float, condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def stage_and_dvc(workspace: Workspace) -> tuple[psutil.Process, psutil.Process]:
    """The processes of the stage that is at work, once it is."""
    pid = workspace.root / "pid.txt"
    assert within(60, pid.exists)
    stage = psutil.Process(int(pid.read_text()))
    return stage, next(one for one in stage.parents() if "dvc" in one.cmdline())


def hold_rwlock(workspace: Workspace, content: str) -> Path:
    rwlock = workspace.root / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir()
    rwlock.write_text(content)
    return rwlock


def entry(workspace: Workspace, pid: int) -> str:
    holder = {"pid": pid, "cmd": "dvc/__main__.py repro first"}
    return json.dumps({"write": {str(workspace.root / "first.txt"): holder}, "read": {}})


def test_stages_come_after_what_they_stand_on_whatever_their_place_in_the_file(workspace: Workspace) -> None:
    assert pipeline.stages(workspace) == ("first", "second")


def test_stages_that_stand_on_each_other_are_refused(workspace: Workspace) -> None:
    (workspace.root / "dvc.yaml").write_text(DVC_YAML.replace("input.txt", "second.txt"))
    with pytest.raises(ConfigurationError, match="circle"):
        pipeline.stages(workspace)


def test_stage_that_stands_on_a_folder_comes_after_the_writer_of_a_file_in_it(workspace: Workspace) -> None:
    (workspace.root / "dvc.yaml").write_text(
        "stages:\n  b: {cmd: b, deps: [data]}\n  a: {cmd: a, outs: [data/clean/x.parquet]}\n"
    )
    assert pipeline.stages(workspace) == ("a", "b")


def test_only_what_changed_runs_again_and_fingerprints_follow_the_outputs(workspace: Workspace) -> None:
    assert pipeline.up_to_date(workspace) == {"first": False, "second": False}
    assert reproduce(workspace, "second", alone=False) is pipeline.Outcome.RAN
    assert runs(workspace) == ["first", "second"]
    assert pipeline.up_to_date(workspace) == {"first": True, "second": True}
    before = pipeline.fingerprint(workspace, "first")
    assert reproduce(workspace) is pipeline.Outcome.SKIPPED
    assert pipeline.fingerprint(workspace, "first") == before

    (workspace.root / "input.txt").write_text("2")
    assert pipeline.up_to_date(workspace) == {"first": False, "second": False}
    assert reproduce(workspace) is pipeline.Outcome.RAN
    assert pipeline.fingerprint(workspace, "first") != before
    assert runs(workspace) == ["first", "second", "first"]


def test_fingerprint_of_a_stage_that_never_ran_names_the_command_to_run(workspace: Workspace) -> None:
    with pytest.raises(GatecastError, match="gatecast first"):
        pipeline.fingerprint(workspace, "first")


def test_stage_runs_the_code_of_its_own_workspace_and_speaks_on_stderr_alone(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    reproduce(workspace)
    printed = capfd.readouterr()
    assert (workspace.root / "source.txt").read_text() == str(workspace.root / "src")
    assert "progress of first\n" in printed.err
    assert printed.out == ""


def test_stage_that_refuses_passes_on_its_line_and_status_even_from_upstream(workspace: Workspace) -> None:
    order(workspace, "refuse")
    with pytest.raises(StageFailed, match=r"^too many holes$") as failure:
        reproduce(workspace, "second", alone=False)
    assert failure.value.exit_status == 3


def test_stage_that_dies_is_named_and_an_older_failure_is_not_taken_for_its_own(workspace: Workspace) -> None:
    workspace.failure.write_text('{"stage": "first", "status": 3, "line": "of last week"}')
    order(workspace, "die")
    with pytest.raises(StageFailed, match=r"stage first was killed \(status (-9|137)\)") as failure:
        reproduce(workspace)
    assert failure.value.exit_status == 1


def test_stage_that_crashes_is_not_taken_for_killed(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    order(workspace, "crash")
    with pytest.raises(StageFailed, match=r"failed with an error of its own \(status 1\); .*first\.log"):
        reproduce(workspace)
    assert "RuntimeError: unforeseen" in capfd.readouterr().err


def test_stage_that_cannot_start_says_what_dvc_said(workspace: Workspace) -> None:
    with pytest.raises(StageFailed, match=r"could not bring stage second up to date: .*first\.txt"):
        reproduce(workspace, "second")


def test_freezing_has_dvc_track_a_folder_without_a_word(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = workspace.root / "raw"
    raw.mkdir()
    (raw / "candles").write_text("1")
    pipeline.freeze(workspace, raw)
    assert "md5" in (workspace.root / "raw.dvc").read_text()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(GatecastError, match="could not add absent"):
        pipeline.freeze(workspace, workspace.root / "absent")


def test_killed_dvc_leaves_no_process_and_the_next_run_completes(workspace: Workspace) -> None:
    order(workspace, "hang")
    seen: list[psutil.Process] = []

    def kill_dvc() -> None:
        seen.extend(stage_and_dvc(workspace))
        seen[1].kill()

    killer = threading.Thread(target=kill_dvc)
    killer.start()
    with pytest.raises(StageFailed, match=r"DVC was killed \(signal 9\)"):
        reproduce(workspace)
    killer.join()
    assert [one for one in seen if alive(one)] == []
    order(workspace, "work")
    assert reproduce(workspace) is pipeline.Outcome.RAN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_dvc_and_its_stage(
    number: signal.Signals, workspace: Workspace, parent: subprocess.Popen[bytes]
) -> None:
    order(workspace, "hang")
    processes = stage_and_dvc(workspace)
    parent.send_signal(number)
    assert parent.wait(10) != 0
    assert within(10, lambda: not any(alive(one) for one in processes))


def test_stage_of_a_killed_run_goes_on_and_the_next_run_waits_for_it_and_finds_it_done(
    workspace: Workspace, parent: subprocess.Popen[bytes]
) -> None:
    order(workspace, "linger")
    stage_and_dvc(workspace)
    parent.kill()
    parent.wait()
    said: list[str] = []
    assert reproduce(workspace, say=said.append) is pipeline.Outcome.SKIPPED
    assert runs(workspace) == ["first"]
    assert "waiting for it to end" in said[0]


def test_stage_whose_run_and_dvc_were_both_killed_is_ended_and_run_anew(
    workspace: Workspace, parent: subprocess.Popen[bytes]
) -> None:
    order(workspace, "hang")
    stage, dvc = stage_and_dvc(workspace)
    parent.kill()
    dvc.kill()
    assert within(10, lambda: not alive(dvc))
    assert alive(stage)
    order(workspace, "work")
    assert reproduce(workspace) is pipeline.Outcome.RAN
    assert not alive(stage)


def test_lock_of_a_dead_process_does_not_stop_a_run(workspace: Workspace) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    hold_rwlock(workspace, entry(workspace, dead.pid))
    assert reproduce(workspace) is pipeline.Outcome.RAN


def test_lock_of_a_zombie_and_of_a_stranger_with_its_number_does_not_stop_a_run(workspace: Workspace) -> None:
    zombie = subprocess.Popen(["true"])
    assert within(10, lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
    stranger = subprocess.Popen(["sleep", "60"])
    both = json.loads(entry(workspace, zombie.pid))
    both["read"] = {path: [holder | {"pid": stranger.pid}] for path, holder in both["write"].items()}
    hold_rwlock(workspace, json.dumps(both))
    try:
        assert reproduce(workspace) is pipeline.Outcome.RAN
    finally:
        stranger.kill()
        stranger.wait()
        zombie.wait()


def test_lock_file_that_a_kill_cut_short_does_not_stop_a_run(workspace: Workspace) -> None:
    hold_rwlock(workspace, '{"write": {"/x": {"pi')
    assert reproduce(workspace) is pipeline.Outcome.RAN


def test_status_during_a_run_says_so_instead_of_failing(workspace: Workspace, parent: subprocess.Popen[bytes]) -> None:
    order(workspace, "hang")
    stage_and_dvc(workspace)
    assert pipeline.up_to_date(workspace) is None
    parent.send_signal(signal.SIGTERM)
    parent.wait(30)
    assert pipeline.up_to_date(workspace) == {"first": False, "second": False}


def test_run_waits_for_a_live_dvc_that_holds_its_paths(workspace: Workspace) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)", "dvc", "repro"])
    hold_rwlock(workspace, entry(workspace, holder.pid))
    said: list[str] = []
    try:
        assert reproduce(workspace, say=said.append) is pipeline.Outcome.RAN
        assert holder.poll() == 0
        assert [f"DVC process {holder.pid} " in line for line in said] == [True]
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture
def busy_lock(workspace: Workspace) -> Iterator[Callable[[], None]]:
    """The lock of the whole repository, held until the yielded function is called."""
    (workspace.root / ".dvc" / "tmp").mkdir()
    file = (workspace.root / ".dvc" / "tmp" / "lock").open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    yield file.close
    file.close()


def test_run_tries_again_while_another_dvc_holds_the_repository(
    workspace: Workspace, busy_lock: Callable[[], None]
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        busy_lock()

    assert reproduce(workspace, say=say) is pipeline.Outcome.RAN
    assert len(said) == 1
    assert "trying again" in said[0]


def test_run_gives_up_on_a_repository_that_stays_locked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = dvc_process.Ended(255, ["ERROR: Unable to acquire lock. Most likely another DVC process is running"])
    monkeypatch.setattr(dvc_process, "LOCK_BACKOFFS_S", (0.0, 0.0))
    monkeypatch.setattr(dvc_process, "_run_once", lambda *_: busy)
    said: list[str] = []
    with pytest.raises(GatecastError, match="keeps its lock"):
        reproduce(workspace, say=said.append)
    assert len(said) == 2
