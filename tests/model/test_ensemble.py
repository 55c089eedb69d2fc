"""Networks that are trained side by side, in processes that may be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load, save

from gatecast.config import ModelConfig
from gatecast.config_parsing import parse_config
from gatecast.errors import ConfigurationError, GatecastError
from gatecast.model import ensemble, training
from gatecast.model.callbacks import Checkpoint
from gatecast.model.ensemble import (
    N_WORKERS_VARIABLE,
    Member,
    collect_networks,
    members,
    train_member,
    training_workers,
)
from gatecast.model.networks import Architecture
from gatecast.model.training import Hyperparameters
from gatecast.model.windows import Panel, Windows
from tests.conftest import REPOSITORY

WINDOWS = Windows(stride=16, burn_in=8)
ARCHITECTURE = Architecture("lstm", "quantiles", "none", 3, 2, 1, 0, 4, 1, 0.1, 3, 1)
HYPERPARAMETERS = Hyperparameters(hidden_size=4, learning_rate=0.01, dropout=0.1, weight_decay=0.01)
N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LIMIT_S = 90.0  # of a machine that has much else to do


def small_panel() -> Panel:
    """One market whose volatility follows from its first input."""
    n_blocks = 16
    n_bars = WINDOWS.burn_in + n_blocks * WINDOWS.stride
    drawn = torch.randn(n_bars, 5, generator=torch.Generator().manual_seed(5))
    return Panel(
        inputs=drawn[:, :3],
        targets=drawn[:, 3:] * (1 + drawn[:, :1].abs()),
        known=torch.ones(n_bars, 2),
        scale=torch.full((n_bars, 2), 0.01),
        rows=torch.arange(n_bars),
        starts=torch.arange(n_blocks) * WINDOWS.stride,
        anchors=torch.arange(n_blocks),
        markets=torch.zeros(n_blocks, dtype=torch.long),
        windows=WINDOWS,
    )


def small_config(n_seeds: int) -> ModelConfig:
    shipped = parse_config(YAML(typ="safe").load(REPOSITORY / "conf" / "params.yaml"), "conf/params.yaml").model
    return shipped.model_copy(
        update={
            "horizons": (1, 6),
            "stride": WINDOWS.stride,
            "burn_in": WINDOWS.burn_in,
            "n_seeds": n_seeds,
            "batch_blocks": 4,
        }
    )


def small_ensemble(
    folder: Path | None, n_seeds: int = 2, n_steps: int = 12, panel: Panel | None = None
) -> list[Member]:
    parts = (panel or small_panel(), ARCHITECTURE, HYPERPARAMETERS, small_config(n_seeds), n_steps)
    return members(*parts, checkpoints=folder)


def trained(ensemble_: list[Member], train: Callable[[Member], bytes] = train_member) -> list[bytes]:
    """The weights of each network, by as many workers as the environment says."""
    with training_workers(len(ensemble_)) as workers:
        pending = [workers.submit(train, member) for member in ensemble_]
        return [save(dict(network.state_dict())) for network in collect_networks(ARCHITECTURE, pending)]


def until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the networks that this process trains."""
    seeds: list[int] = []
    train = training.train_network

    def counted(*parts: Any, **options: Any) -> Any:
        seeds.append(parts[4])
        return train(*parts, **options)

    monkeypatch.setattr(ensemble, "train_network", counted)
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")
    return seeds


def test_the_weights_do_not_depend_on_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for n_workers in ("1", "2"):
        monkeypatch.setenv(N_WORKERS_VARIABLE, n_workers)
        results.append(trained(small_ensemble(None, n_seeds=3)))
    assert results[0] == results[1]
    assert len(set(results[0])) == 3


def process_and_cores(_: int) -> tuple[int, frozenset[int]]:
    time.sleep(0.1)  # so that the other one gets some, too
    return os.getpid(), frozenset(os.sched_getaffinity(0))


@pytest.mark.skipif(N_CORES < 2 or not hasattr(os, "sched_getaffinity"), reason="two cores, and a system that pins")
def test_two_workers_are_pinned_to_a_core_each_and_this_process_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    before = os.sched_getaffinity(0)
    cores_of: dict[int, frozenset[int]] = {}
    with training_workers(2) as workers:

        def both_have_answered() -> bool:
            cores_of.update(workers.map(process_and_cores, range(4)))
            return len(cores_of) > 1

        until(both_have_answered, "two workers")
    one, other = cores_of.values()
    assert len(one) == len(other) == 1
    assert one != other
    assert one | other <= before
    assert os.sched_getaffinity(0) == before
    assert os.getpid() not in cores_of


def test_one_network_or_one_worker_is_trained_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, n_networks in (("1", 3), ("2", 1), ("64", 1)):
        monkeypatch.setenv(N_WORKERS_VARIABLE, wanted)
        with training_workers(n_networks) as workers:
            assert workers.submit(os.getpid).result() == os.getpid()


@pytest.mark.parametrize("wanted", ["", "0", "-1", "1.5", "two", " 2", "²", "1e1"])
def test_a_number_of_workers_that_is_none_is_one_line(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, wanted)
    with pytest.raises(ConfigurationError) as caught, training_workers(2):
        pass
    assert str(caught.value) == f"GATECAST_WORKERS is {wanted!r}: it is the number of processes that train, from 1"


def test_an_interrupted_stage_trains_only_the_networks_that_are_not_done(tmp_path: Path, trainings: list[int]) -> None:
    ensemble_ = small_ensemble(tmp_path, n_seeds=3)
    first = [train_member(member) for member in ensemble_[:2]]
    assert trainings == [7, 8]
    assert [path.stem for path in kept(tmp_path)] == sorted(member.key() for member in ensemble_[:2])
    whole = trained(ensemble_)
    assert trainings == [7, 8, 9]
    assert whole[:2] == first
    assert trained(ensemble_) == whole == trained(small_ensemble(None, n_seeds=3))
    assert trainings == [7, 8, 9, 7, 8, 9]
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


@pytest.mark.parametrize("share", [0.0, 0.005, 0.2, 0.6, 0.999])
def test_a_kept_network_that_was_cut_short_is_trained_again(share: float, tmp_path: Path, trainings: list[int]) -> None:
    (member,) = small_ensemble(tmp_path, n_seeds=1)
    weights = train_member(member)
    (done,) = kept(tmp_path)
    done.write_bytes(weights[: int(share * len(weights))])
    assert train_member(member) == weights == done.read_bytes()
    assert trainings == [7, 7]


def test_a_kept_network_of_another_architecture_is_trained_again(tmp_path: Path, trainings: list[int]) -> None:
    (member,) = small_ensemble(tmp_path, n_seeds=1)
    weights = train_member(member)
    (done,) = kept(tmp_path)
    done.write_bytes(save({name: value for name, value in load(weights).items() if name != "head.base"}))
    assert train_member(member) == weights == done.read_bytes()
    assert trainings == [7, 7]


def with_part(member: Member, part: str, name: str, value: object) -> Member:
    changes: dict[str, Any] = {part: replace(getattr(member, part), **{name: value})}
    return replace(member, **changes)


def test_a_kept_network_is_that_of_its_inputs_alone() -> None:
    (member,) = small_ensemble(None, n_seeds=1)
    (same,) = small_ensemble(None, n_seeds=1)
    elsewhere = replace(same, label="fold 2/5, network 1/1", checkpoints=Path("elsewhere"))
    assert same.key() == elsewhere.key() == member.key()
    panel = small_panel()
    targets = panel.targets.clone()
    targets[-1, -1] += 1e-6
    (moved,) = small_ensemble(None, n_seeds=1, panel=replace(panel, targets=targets))
    changed: dict[str, dict[str, object]] = {
        "architecture": {"network": "cnn_lstm", "head": "student_t", "hidden_size": 5, "n_layers": 2},
        "hyperparameters": {"hidden_size": 5, "learning_rate": 0.01 + 1e-9, "dropout": 0.2, "weight_decay": 0.02},
        "windows": {"stride": 32, "burn_in": 9},
    }
    config = {"batch_blocks": 5, "gradient_clip": 0.5, "schedule": "constant", "n_devices": 2, "horizons": (1, 24)}
    others = [
        replace(member, panel=moved.panel),
        replace(member, seed=member.seed + 1),
        replace(member, n_steps=member.n_steps + 1),
        *(with_part(member, part, name, value) for part in changed for name, value in changed[part].items()),
        *(replace(member, config=member.config.model_copy(update={name: value})) for name, value in config.items()),
    ]
    keys = [each.key() for each in others]
    with patch.object(ensemble, "code_sha256", lambda: "other code"):
        keys.append(member.key())
    with patch.object(ensemble, "version", lambda _: "another"):
        keys.append(member.key())
    with patch.object(torch.cuda, "is_available", lambda: True):
        keys.append(member.key())
    assert len({member.key(), *keys}) == 1 + len(keys)


def tell_and_train(member: Member, path: Path) -> bytes:
    path.write_text(str(os.getpid()), encoding="utf-8")
    return train_member(member)


def test_a_worker_that_is_killed_is_one_line_and_what_was_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[int]
) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    short, other = small_ensemble(tmp_path)
    endless, told = replace(other, n_steps=10**7), tmp_path / "pid"
    with pytest.raises(GatecastError) as caught, training_workers(2) as workers:
        pending = [workers.submit(train_member, short), workers.submit(tell_and_train, endless, told)]
        done = pending[0].result(timeout=LIMIT_S)
        until(lambda: told.exists() and bool(told.read_text(encoding="utf-8")), "the other worker")
        os.kill(int(told.read_text(encoding="utf-8")), signal.SIGKILL)
        collect_networks(ARCHITECTURE, pending)
    assert str(caught.value) == (
        "a process that fitted a network or a baseline was killed, most likely because memory ran out: set"
        " GATECAST_WORKERS=1 and run again; what was trained is kept"
    )
    assert [path.read_bytes() for path in kept(tmp_path)] == [done]
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")
    assert trained([short, other])[0] == done
    assert trainings == [8]


def test_a_worker_that_is_killed_between_two_folds_is_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    with (
        pytest.raises(GatecastError, match="a process that fitted a network or a baseline was killed"),
        training_workers(2) as pool,
    ):
        worker = pool.submit(os.getpid).result(timeout=LIMIT_S)
        os.kill(worker, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(worker), "the end of the worker")
        while True:  # nothing is asked of what was sent: it is the next fold that is refused
            pool.submit(os.getpid)


def broken_ensemble() -> list[Member]:
    panel = small_panel()
    return small_ensemble(None, panel=replace(panel, targets=torch.sign(panel.targets) * 1e38))


def test_an_error_in_a_worker_is_the_line_that_it_is_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    for n_workers in ("1", "2"):
        monkeypatch.setenv(N_WORKERS_VARIABLE, n_workers)
        with pytest.raises(GatecastError, match=r"training loss is (inf|nan) at epoch 0, batch 0: lower ") as caught:
            trained(broken_ensemble())
        assert type(caught.value) is GatecastError
        lines.append(str(caught.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]


def test_neither_an_error_nor_an_interrupt_waits_for_the_other_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    long = small_ensemble(tmp_path, n_seeds=5, n_steps=4000)
    with pytest.raises(GatecastError, match="training loss is"):
        trained([broken_ensemble()[0], *long])
    with pytest.raises(KeyboardInterrupt), training_workers(2) as workers:
        pending = [workers.submit(train_member, member) for member in long]
        until(pending[0].running, "the first of them")
        raise KeyboardInterrupt
    assert kept(tmp_path) == []


def train_and_save_often(member: Member) -> bytes:
    with patch.object(training, "Checkpoint", partial(Checkpoint, every_s=0.0)):
        return train_member(member)


def train_three(folder: Path | None) -> list[bytes]:
    """What the process does that is killed, and the one that goes on."""
    return trained(small_ensemble(folder, n_seeds=3, n_steps=150), train_and_save_often)


@contextmanager
def training_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = "import sys, pathlib, tests.model.test_ensemble as t; t.train_three(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, N_WORKERS_VARIABLE: "2", "PYTHONPATH": os.pathsep.join(["src", "."])}
    command = [sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alive_in_session(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_killed_training_leaves_no_process_behind_and_the_next_one_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    with training_process(folder) as process:

        def half_done() -> bool:
            assert process.poll() is None, "it ended before it was killed"
            return bool(kept(folder)) and any(folder.glob("*.ckpt"))

        until(half_done, "a network done and one under way")
        assert len(alive_in_session(process.pid)) > 2  # this one and its two workers
        process.kill()
        process.wait()
        until(lambda: not alive_in_session(process.pid), "the end of its workers", limit_s=10)
    done = {path: path.stat().st_mtime_ns for path in kept(folder)}
    under_way = list(folder.glob("*.ckpt"))
    assert 1 <= len(done) < 3
    assert under_way
    monkeypatch.setenv(N_WORKERS_VARIABLE, "2")
    weights = train_three(folder)
    assert len(kept(folder)) == 3
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not any(path.exists() for path in under_way)
    monkeypatch.setenv(N_WORKERS_VARIABLE, "1")
    assert train_three(None) == weights
