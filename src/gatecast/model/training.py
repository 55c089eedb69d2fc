"""Dense training with Lightning: a label at every bar of a block, on CPU and GPU alike.

One network is trained either for a fixed number of optimiser steps, or until a stopping slice no longer improves.
"""

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException

from gatecast.config import ModelConfig
from gatecast.errors import GatecastError
from gatecast.model.batches import Batch, Blocks, epoch_seed
from gatecast.model.callbacks import STOPPING_LOSS, BestWeights, Checkpoint, ProgressLines, sound_checkpoint
from gatecast.model.heads import pinball_loss
from gatecast.model.networks import Architecture, Network
from gatecast.model.predictions import LEVELS
from gatecast.model.threads import one_thread
from gatecast.model.windows import Panel

_WARM_UP: Final = 0.1  # of the steps

# here and not in a function, for the processes that Lightning starts, too
for _name in ("pytorch_lightning", "lightning_fabric", "torch.multiprocessing.spawn"):
    logging.getLogger(_name).setLevel(logging.ERROR)
# batches are gathered from memory by index: there is no DataLoader for Lightning to advise about
warnings.filterwarnings("ignore", module="pytorch_lightning")


@dataclass(frozen=True)
class Hyperparameters:
    """What `tune` searches: width of the state, learning rate, dropout rate and weight decay."""

    hidden_size: int
    learning_rate: float
    dropout: float
    weight_decay: float


@dataclass(frozen=True)
class EarlyStop:
    """A slice held out to stop the training, and the patience with it."""

    panel: Panel
    max_epochs: int
    patience: int


class DenseForecaster(lightning.LightningModule):
    """The head's loss of the scaled returns at every bar after the burn-in."""

    n_steps: Tensor

    def __init__(self, network: Network, hyperparameters: Hyperparameters, config: ModelConfig, seed: int) -> None:
        """Hold the network and how to step it."""
        super().__init__()
        self.network = network
        self.settings = hyperparameters
        self.config = config
        self.seed = seed
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.long))  # with the weights, whatever process trains
        # labels that overlap say less: a long horizon would teach all the noise of its few independent ones
        shares = torch.tensor(config.horizons, dtype=torch.float32).rsqrt()
        self.shares: Tensor  # (H)
        self.register_buffer("shares", shares / shares.mean(), persistent=False)
        self.losses: list[Tensor] = []  # of the present epoch, on their device: reading one would wait for the card

    def on_fit_start(self) -> None:
        """Bind each of several processes to one thread, as one process is by `one_thread`."""
        if self.trainer.world_size > 1:
            torch.set_num_threads(1)

    def on_train_epoch_start(self) -> None:
        """Draw the dropout of an epoch from its number, so that a resumed training draws the same."""
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch, stream=1))
        self.losses = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning names it
        """Loss of one batch."""
        burn_in = self.config.burn_in
        parameters = self.network.distribution(batch.inputs, batch.markets)[:, burn_in:]  # (B, stride, H, P)
        weight = batch.known[:, burn_in:] * self.shares  # (B, stride, H)
        loss = self.network.head.loss(batch.targets[:, burn_in:], parameters, weight)
        self.losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:  # noqa: ARG002 - Lightning names it
        """Count the steps behind the weights."""
        self.n_steps.fill_(self.trainer.global_step)

    def on_train_epoch_end(self) -> None:
        """See that every loss of the epoch was a number.

        Raises:
            GatecastError: One was not.
        """
        if not self.losses:  # a training that goes on begins with the end of the epoch that it was saved at
            return
        # of all processes: or one would stop, and another wait for it
        losses = self.trainer.strategy.reduce(torch.stack(self.losses))
        assert isinstance(losses, Tensor)
        if torch.isfinite(losses).all():
            return
        first = int(torch.nonzero(~torch.isfinite(losses))[0])
        raise GatecastError(
            f"the training loss is {losses[first].item()} at epoch {self.current_epoch}, batch {first}:"
            f" {_remedy(self.settings)}"
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning names it
        """Pinball loss on the stopping slice, whatever the head is trained by."""
        burn_in = self.config.burn_in
        quantiles = self.network(batch.inputs, batch.markets)[:, burn_in:]  # (B, stride, H, Q)
        known = batch.known[:, burn_in:]
        loss = pinball_loss(batch.targets[:, burn_in:], quantiles, known)
        self.log(STOPPING_LOSS, loss, batch_size=int(known.sum().clamp_min(1)))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, its rate on a half cosine down to nothing where the number of steps is fixed.

        Source:
            Loshchilov and Hutter (2017), SGDR, ICLR; (2019), Decoupled Weight Decay Regularization, ICLR.
        """
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        n_steps = self.trainer.max_steps
        if self.config.schedule == "constant" or n_steps < 0:
            return optimizer
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_rate(step, n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def cosine_rate(step: int, n_steps: int) -> float:
    """Share of the learning rate at a step, from 0: up over the first tenth, then down on a half cosine."""
    return min((step + 1) / (_WARM_UP * n_steps), 1.0) * 0.5 * (1 + math.cos(math.pi * min(step / n_steps, 1.0)))


def train_network(
    panel: Panel,
    architecture: Architecture,
    hyperparameters: Hyperparameters,
    config: ModelConfig,
    seed: int,
    *,
    n_steps: int | None = None,
    early_stop: EarlyStop | None = None,
    checkpoint: Path | None = None,
    label: str = "",
    start_from: Mapping[str, Tensor] | None = None,
) -> tuple[Network, int]:
    """Train one network.

    Args:
        panel: The train slice.
        architecture: What the network is built from.
        hyperparameters: Rates and decay.
        config: Everything else about the training.
        seed: Decides initial weights, dropout, order and offsets.
        n_steps: Optimiser steps, when they are fixed.
        early_stop: The slice that stops the training, when they are to be found; the learning rate stays as it is.
        checkpoint: File that is written as the training goes on, and gone on from if it is there.
        label: What lines of progress call the network.
        start_from: Weights that it goes on from; None: random ones, and a head that says what the train targets do.

    Returns:
        The network in evaluation mode, on the CPU, and the optimiser steps behind its weights.

    Raises:
        GatecastError: The loss is no longer a number, or no target is known.
    """
    torch.manual_seed(seed)
    network = Network(architecture)
    network.head.start_at(_train_quantiles(panel))
    if start_from is not None:
        network.load_state_dict(start_from)
    module = DenseForecaster(network, hyperparameters, config, seed)
    stoppers = [BestWeights(), EarlyStopping(STOPPING_LOSS, patience=early_stop.patience)] if early_stop else []
    savers: list[Callback] = [Checkpoint(checkpoint)] if checkpoint else []
    trainer = lightning.Trainer(
        **_hardware(config),
        max_steps=n_steps if n_steps is not None else -1,
        max_epochs=early_stop.max_epochs if early_stop else -1,
        gradient_clip_val=config.gradient_clip,
        callbacks=[*stoppers, *savers, ProgressLines(label)],
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    blocks = Blocks(panel, early_stop.panel if early_stop else None, config.batch_blocks, seed)
    try:
        with one_thread():
            trainer.fit(module, datamodule=blocks, ckpt_path=sound_checkpoint(checkpoint), weights_only=True)
    except ProcessException as error:
        raise _in_one_line(error) from error
    if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
        raise GatecastError(f"the last optimiser step left weights that are not numbers: {_remedy(hyperparameters)}")
    return network.cpu().eval(), int(module.n_steps)


def _in_one_line(error: ProcessException) -> Exception:
    """What ended a process that shared the steps: its own line, if it is one for the user."""
    if not isinstance(error, ProcessRaisedException):
        return GatecastError("a process that trained a network was killed, most likely because memory ran out")
    kind, _, line = str(error).rstrip().splitlines()[-1].partition(": ")
    return GatecastError(line) if kind == f"{GatecastError.__module__}.{GatecastError.__name__}" else error


def _remedy(hyperparameters: Hyperparameters) -> str:
    return (
        f"lower tune.learning_rate.high (this network uses {hyperparameters.learning_rate:.4g}) or model.gradient_clip"
    )


def _hardware(config: ModelConfig) -> dict[str, Any]:
    """Where Lightning trains: the cards if there are any, with half the bits where they have them; else the cores."""
    card = torch.cuda.is_available()
    return {
        "accelerator": "gpu" if card else "cpu",
        "devices": config.n_devices,
        "strategy": "ddp_spawn" if config.n_devices > 1 else "auto",
        "precision": "bf16-mixed" if card and torch.cuda.is_bf16_supported() else "32-true",
        "deterministic": not card,
    }


def _train_quantiles(panel: Panel) -> Tensor:
    """Empirical quantiles of the scaled train targets, (H, Q)."""
    levels = torch.tensor(LEVELS)
    known = panel.known > 0
    return torch.stack([_quantile(panel.targets[known[:, h], h].cpu(), levels) for h in range(panel.targets.shape[1])])


def _quantile(values: Tensor, levels: Tensor) -> Tensor:
    if not len(values):
        raise GatecastError("no target is known in the train slice: fetch a longer history, or lower the horizons")
    ordered = values.sort().values  # torch.quantile refuses more than 16 million values
    return ordered[(levels * (len(values) - 1)).round().long()]
