"""The seed ensemble: networks that differ in their seed alone, trained side by side in processes pinned to cores.

What comes out does not depend on how many processes there are. A network that is done is kept in the folder of
checkpoints until the whole stage is, so that an interrupted one goes on with the network at which it was.
"""

import gc
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from gatecast.config import ModelConfig
from gatecast.errors import ConfigurationError, GatecastError
from gatecast.model.networks import Architecture, Network, load_network
from gatecast.model.training import Hyperparameters, train_network
from gatecast.model.windows import Panel, Windows
from gatecast.workspace import code_sha256, write_atomically

N_WORKERS_VARIABLE = "GATECAST_WORKERS"


@dataclass(frozen=True)
class Member:
    """A network that is to be trained, as it can be sent to another process.

    Attributes:
        panel: The train slice, as safetensors.
        windows: How its blocks are cut.
        architecture: What the network is built from.
        hyperparameters: Rates and decay.
        config: Everything else about the training.
        seed: Seed of the network.
        n_steps: Optimiser steps.
        label: What lines of progress call it.
        checkpoints: Folder of what is under way and done; None: nothing is kept.
        start_from: Weights that it goes on from, as safetensors; None: random ones.
    """

    panel: bytes
    windows: Windows
    architecture: Architecture
    hyperparameters: Hyperparameters
    config: ModelConfig
    seed: int
    n_steps: int
    label: str
    checkpoints: Path | None
    start_from: bytes | None = None

    def key(self) -> str:
        """A hash of all that its weights follow from, the code and the libraries included."""
        parts = {
            "panel": hashlib.sha256(self.panel).hexdigest(),
            "windows": asdict(self.windows),
            "architecture": asdict(self.architecture),
            "hyperparameters": asdict(self.hyperparameters),
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "n_steps": self.n_steps,
            "start_from": hashlib.sha256(self.start_from).hexdigest() if self.start_from else None,
            "code": code_sha256(),
            "versions": [torch.__version__, version("pytorch-lightning")],
            "card": torch.cuda.is_available(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def members(
    panel: Panel,
    architecture: Architecture,
    hyperparameters: Hyperparameters,
    config: ModelConfig,
    n_steps: int,
    label: str = "",
    checkpoints: Path | None = None,
    start_from: Sequence[bytes] | None = None,
) -> list[Member]:
    """The networks of an ensemble, a seed each; arguments as the attributes of `Member`, `start_from` of each."""
    content = save({name: tensor.contiguous() for name, tensor in panel.tensors().items()})
    return [
        Member(
            content,
            panel.windows,
            architecture,
            hyperparameters,
            config,
            config.seed + number,
            n_steps,
            f"{label}network {number + 1}/{config.n_seeds}",
            checkpoints,
            start_from[number] if start_from else None,
        )
        for number in range(config.n_seeds)
    ]


def train_member(member: Member) -> bytes:
    """Train one network, or read what an interrupted stage left of it.

    Returns:
        Its weights, as safetensors.

    Raises:
        GatecastError: The loss is no longer a number.
    """
    done = member.checkpoints / f"{member.key()}.safetensors" if member.checkpoints else None
    if done and done.exists():
        try:
            weights = done.read_bytes()
            load_network(member.architecture, load(weights))
        except (SafetensorError, RuntimeError):
            done.unlink()  # cut short by a full disk or a power cut
        else:
            return weights
    checkpoint = done.with_suffix(".ckpt") if done else None
    panel = Panel(**load(member.panel), windows=member.windows)
    network, _ = train_network(
        panel,
        member.architecture,
        member.hyperparameters,
        member.config,
        member.seed,
        n_steps=member.n_steps,
        checkpoint=checkpoint,
        label=member.label,
        start_from=load(member.start_from) if member.start_from else None,
    )
    trained = save({name: value.contiguous() for name, value in network.state_dict().items()})
    if done and checkpoint:
        write_atomically(done, lambda path: path.write_bytes(trained))
        checkpoint.unlink(missing_ok=True)
    return trained


def collect_networks(architecture: Architecture, pending: Sequence[Future[bytes]]) -> tuple[Network, ...]:
    """The networks of an ensemble, once they are there.

    Raises:
        GatecastError: The loss of one is no longer a number.
        BrokenProcessPool: A process was killed; `training_workers` makes a line of it.
    """
    return tuple(load_network(architecture, load(each.result())) for each in pending)


class _Here(Executor):
    """Runs what it is given at once, in the process and thread of the caller."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@contextmanager
def training_workers(n_jobs: int, n_devices: int = 1) -> Iterator[Executor]:
    """Workers for `train_member` and other long jobs: a process a core, or this one where there is no use for more.

    One core, one job or a card has none.

    Args:
        n_jobs: Networks, baselines and so on that there will be to fit; no more processes are started.
        n_devices: Cards or processes that share each network; if they are several, it is trained by itself.

    Raises:
        ConfigurationError: GATECAST_WORKERS is not a number of processes.
        GatecastError: A process was killed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    n_workers = min(_n_workers(len(cores)), n_jobs) if n_devices == 1 else 1
    if n_workers == 1:
        yield _Here()
        return
    # a server that has loaded PyTorch and done nothing: a worker is forked from it in no time and shares its memory
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gatecast.model.ensemble"])
    free = context.SimpleQueue()
    for core in (cores[number % len(cores)] for number in range(n_workers)):
        free.put(core)
    stop, stopper = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(n_workers, mp_context=context, initializer=_begin, initargs=(free, stop))
    try:
        yield executor
    except BaseException as error:
        stopper.close()  # or the error would come after the networks under way, and those next in line
        if isinstance(error, BrokenProcessPool):  # when a result is asked for, or the next network sent
            raise GatecastError(
                "a process that fitted a network or a baseline was killed, most likely because memory ran out: set"
                f" {N_WORKERS_VARIABLE}=1 and run again; what was trained is kept"
            ) from error
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _n_workers(n_cores: int) -> int:
    wanted = os.environ.get(N_WORKERS_VARIABLE)
    if wanted is None:
        return 1 if torch.cuda.is_available() else n_cores
    if not (wanted.isascii() and wanted.isdigit() and int(wanted) > 0):
        raise ConfigurationError(
            f"{N_WORKERS_VARIABLE} is {wanted!r}: it is the number of processes that train, from 1"
        )
    return int(wanted)


def _begin(free: Any, stop: Any) -> None:
    """Settle on a core, and end when the parent closes its end of a pipe, or is killed and leaves nothing behind."""
    gc.freeze()  # the collector would write to every page that is shared with the server
    core = free.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end_with_parent(stop: Any) -> None:
    stop.poll(None)  # nothing is ever sent
    os._exit(1)
