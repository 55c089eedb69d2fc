"""What watches a training: the best weights, a checkpoint to go on from, and lines of progress."""

import sys
import time
import zlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final
from zipfile import BadZipFile, ZipFile

import pytorch_lightning as lightning
import torch
from pytorch_lightning import callbacks
from torch import Tensor

from gatecast.errors import GatecastError
from gatecast.workspace import write_atomically

STOPPING_LOSS: Final = "stopping_loss"
_CHECKPOINT_S: Final = 20.0  # what a kill costs at most, beyond the epoch that is under way
_LINE_S: Final = 15.0


class BestWeights(callbacks.Callback):
    """Remembers the weights with which the stopping loss was least, and ends with them."""

    def __init__(self) -> None:
        """Begin without any."""
        self.loss = float("inf")
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        loss = float(trainer.callback_metrics[STOPPING_LOSS])
        if loss < self.loss:
            self.loss = loss
            self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002 - Lightning names it
        """Go back to the best weights, in the process that trained: what it holds is what comes back from it.

        Raises:
            GatecastError: The stopping loss was never a number.
        """
        if not self.weights:
            raise GatecastError("the loss on the stopping slice is not a number after any epoch")
        pl_module.load_state_dict(self.weights)


class Checkpoint(callbacks.Checkpoint):  # of this kind, so that it comes after the look at the losses of the epoch
    """Saves the whole training at the end of an epoch, at most every so many seconds.

    All that a later epoch draws follows from its number, so that a training which goes on from any of these files ends
    with the weights of one that was never interrupted: when they were written is of no consequence.
    """

    def __init__(self, path: Path, every_s: float = _CHECKPOINT_S) -> None:
        """Hold the file, and the seconds between two writes of it."""
        self.path = path
        self.every_s = every_s
        self.saved_at = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002 - Lightning names it
        """Save if it is time."""
        if not trainer.strategy.broadcast(time.monotonic() - self.saved_at >= self.every_s):
            return
        if trainer.is_global_zero:
            write_atomically(self.path, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self.path)  # writes nothing, and waits for the one that does
        self.saved_at = time.monotonic()


def sound_checkpoint(path: Path | None) -> Path | None:
    """The file, if it is there and sound; a damaged one is put aside with a line. No code in it is run."""
    if path is None or not path.exists():
        return None
    try:
        with ZipFile(path) as parts:
            damaged = parts.testzip()  # PyTorch does not look at the checksums
        if damaged is None:
            torch.load(path, map_location="cpu", weights_only=True)
            return path
    except (BadZipFile, zlib.error, UnpicklingError, RuntimeError, EOFError, ValueError):
        pass
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    sys.stderr.write(f"{path} is damaged: it is put aside as {aside.name}, and the training begins anew\n")
    return None


class ProgressLines(callbacks.ProgressBar):
    """A line now and then, for a log as for a terminal, and none for a training that is over by then."""

    def __init__(self, label: str) -> None:
        """Hold what the network is called."""
        super().__init__()
        self.label = label
        self.shown_at = self.began_at = time.monotonic()
        self.first_step = 0

    def disable(self) -> None:
        """Lightning silences all but one process with it."""
        self.shown_at = float("inf")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002 - Lightning names it
        """Count from where and when the training begins or goes on."""
        self.first_step, self.began_at = trainer.global_step, time.monotonic()
        self.shown_at = max(self.shown_at, self.began_at)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Say how far it is, if it is time."""
        now = time.monotonic()
        if now - self.shown_at < _LINE_S:
            return
        self.shown_at = now
        done, total = trainer.global_step, trainer.max_steps
        line = f"{self.label}: epoch {trainer.current_epoch + 1}, step {done}"
        if total > 0:
            left_s = (now - self.began_at) / max(done - self.first_step, 1) * (total - done)
            line += f" of {total}, about {left_s:.0f} s left"
        sys.stderr.write(line + "\n")
