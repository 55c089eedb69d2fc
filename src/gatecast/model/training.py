"""Dense training with Lightning: a label at every bar of a block, tensors in memory, blocks as views.

One network is trained either for a fixed number of optimiser steps, or until a stopping slice no longer improves.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch import Tensor

from gatecast.config import ModelConfig
from gatecast.errors import GatecastError
from gatecast.model.networks import QuantileLSTM, pinball_loss
from gatecast.model.predictions import LEVELS
from gatecast.model.windows import Panel, blocks

_STOPPING_LOSS = "stopping_loss"
Batch = tuple[Tensor, Tensor, Tensor]  # inputs (B, T, F), scaled targets (B, T, H), known (B, T, H)


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

    panels: Sequence[Panel]
    max_epochs: int
    patience: int


class BlockBatches:
    """Batches of blocks of all panels, gathered by index; an epoch is one pass.

    While training, the anchors are shifted by a random offset each epoch and the blocks shuffled, both by the seed. A
    shifted panel holds one block less, so that every epoch has the same number of batches: Lightning counts on it.
    """

    def __init__(self, panels: Sequence[Panel], config: ModelConfig, seed: int | None) -> None:
        """Hold the panels.

        Args:
            panels: The markets.
            config: Stride, burn-in and blocks a batch.
            seed: Seed of offsets and order; None: anchored blocks in order.
        """
        self.panels = panels
        self.config = config
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Batches of an epoch."""
        n_blocks = sum(len(blocks(panel.rows, *self._layout(panel, shift=1))) for panel in self.panels)
        return math.ceil(n_blocks / self.config.batch_blocks)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch."""
        shift = (
            0 if self.generator is None else 1 + int(torch.randint(self.config.stride, (1,), generator=self.generator))
        )
        views = [
            tuple(blocks(each, *self._layout(panel, shift)) for each in (panel.inputs, panel.targets, panel.known))
            for panel in self.panels
        ]
        sizes = torch.tensor([len(inputs) for inputs, _, _ in views])
        starts = sizes.cumsum(0) - sizes
        total = int(sizes.sum())
        order = torch.arange(total) if self.generator is None else torch.randperm(total, generator=self.generator)
        for chosen in torch.split(order, self.config.batch_blocks):
            owners = torch.searchsorted(starts, chosen, right=True) - 1
            parts = [
                [series[chosen[owners == owner] - starts[owner]] for series in views[owner]]
                for owner in sorted(set(owners.tolist()))
            ]
            inputs, targets, known = (torch.cat(series) for series in zip(*parts, strict=True))
            yield inputs, targets, known

    def _layout(self, panel: Panel, shift: int) -> tuple[int, int, int]:
        """Stride, burn-in and offset; a panel of a single block cannot be shifted."""
        stride, burn_in = self.config.stride, self.config.burn_in
        single = len(panel.rows) < burn_in + 2 * stride
        return stride, burn_in, 0 if single or self.generator is None else shift


class DenseQuantiles(lightning.LightningModule):
    """Pinball loss of the scaled returns at every bar after the burn-in."""

    def __init__(self, network: QuantileLSTM, hyperparameters: Hyperparameters, burn_in: int) -> None:
        """Hold the network and how to step it."""
        super().__init__()
        self.network = network
        self.settings = hyperparameters
        self.burn_in = burn_in

    def _loss(self, batch: Batch) -> Tensor:
        inputs, targets, known = batch
        quantiles = self.network(inputs)[:, self.burn_in :]  # (B, stride, H, Q)
        return pinball_loss(targets[:, self.burn_in :], quantiles, known[:, self.burn_in :])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            raise GatecastError(
                f"the training loss is {loss.item()} at epoch {self.current_epoch}, batch {batch_idx}: lower"
                f" tune.learning_rate.high (this network uses {self.settings.learning_rate:.4g}) or model.gradient_clip"
            )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning names it
        """Loss on the stopping slice."""
        self.log(_STOPPING_LOSS, self._loss(batch), batch_size=int(batch[2][:, self.burn_in :].sum().clamp_min(1)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW (Loshchilov and Hutter 2019)."""
        return torch.optim.AdamW(
            self.network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )


class _BestWeights(Callback):
    """Remembers the weights and the step at which the stopping loss was least."""

    def __init__(self, network: QuantileLSTM) -> None:
        self.network = network
        self.loss = float("inf")
        self.n_steps = 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002 - Lightning names it
        loss = float(trainer.callback_metrics[_STOPPING_LOSS])
        if loss < self.loss:
            self.loss, self.n_steps = loss, trainer.global_step
            self.weights = {name: value.clone() for name, value in self.network.state_dict().items()}


def train_network(
    panels: Sequence[Panel],
    hyperparameters: Hyperparameters,
    config: ModelConfig,
    seed: int,
    *,
    n_steps: int | None = None,
    early_stop: EarlyStop | None = None,
) -> tuple[QuantileLSTM, int]:
    """Train one network.

    Args:
        panels: Train slices, a panel a market.
        hyperparameters: Width, rates and decay.
        config: Everything else about network and training.
        seed: Decides initial weights, dropout, order and offsets.
        n_steps: Optimiser steps, when they are fixed.
        early_stop: The slice that stops the training, when they are to be found.

    Returns:
        The network in evaluation mode, and the optimiser steps behind its weights.

    Raises:
        GatecastError: The loss is no longer a number.
    """
    _quiet()
    lightning.seed_everything(seed, verbose=False)
    n_inputs, n_horizons = panels[0].inputs.shape[1], panels[0].targets.shape[1]
    network = QuantileLSTM(n_inputs, n_horizons, hyperparameters.hidden_size, config.n_layers, hyperparameters.dropout)
    network.start_at(_train_quantiles(panels))
    best = _BestWeights(network)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=n_steps if n_steps is not None else -1,
        max_epochs=early_stop.max_epochs if early_stop else -1,
        gradient_clip_val=config.gradient_clip,
        callbacks=[best, EarlyStopping(_STOPPING_LOSS, patience=early_stop.patience)] if early_stop else [],
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = DenseQuantiles(network, hyperparameters, config.burn_in)
    stopping = BlockBatches(early_stop.panels, config, None) if early_stop else None
    trainer.fit(module, BlockBatches(panels, config, seed), stopping)
    if early_stop:
        network.load_state_dict(best.weights)
        return network.eval(), best.n_steps
    return network.eval(), trainer.global_step


def _train_quantiles(panels: Sequence[Panel]) -> Tensor:
    """Empirical quantiles of the scaled train targets, (H, Q)."""
    targets = torch.cat([panel.targets for panel in panels])  # (T, H)
    known = torch.cat([panel.known for panel in panels]) > 0
    levels = torch.tensor(LEVELS)
    return torch.stack([_quantile(targets[known[:, h], h], levels) for h in range(targets.shape[1])])


def _quantile(values: Tensor, levels: Tensor) -> Tensor:
    if not len(values):
        raise GatecastError("no target is known in the train slice: fetch a longer history, or lower the horizons")
    ordered = values.sort().values  # torch.quantile refuses more than 16 million values
    return ordered[(levels * (len(values) - 1)).round().long()]


def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    # batches are gathered from memory by index: there is no DataLoader for Lightning to advise about
    warnings.filterwarnings("ignore", module="pytorch_lightning")
