"""Batches of blocks, gathered by index from tensors that stay on their device: no sample passes through Python."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytorch_lightning as lightning
import torch
from torch import Tensor

from gatecast.model.windows import Panel

_SEEDS_APART = 1_000_003  # epochs of one seed never meet those of the next
_STREAMS = 2  # random numbers of the batches, and of the dropout


class Batch(NamedTuple):
    """Blocks with their burn-in: inputs (B, T, F), scaled targets (B, T, H), known (B, T, H), markets (B,)."""

    inputs: Tensor
    targets: Tensor
    known: Tensor
    markets: Tensor


class BlockBatches:
    """The batches of one epoch; every epoch of a panel has as many.

    While training, the anchors are shifted by a random offset and the blocks shuffled, both by the seed. A market of
    several blocks then gives one block less, or the last would reach beyond its end.
    """

    def __init__(self, panel: Panel, batch_blocks: int, seed: int | None, rank: int = 0, n_ranks: int = 1) -> None:
        """Hold the panel.

        Args:
            panel: The markets.
            batch_blocks: Blocks a batch, over all ranks.
            seed: Seed of offset and order; None: anchored blocks in order.
            rank: Number of this process among those that share each batch.
            n_ranks: Processes that share each batch.
        """
        self.panel = panel
        self.batch_blocks = batch_blocks
        self.seed = seed
        self.rank, self.n_ranks = rank, n_ranks
        last = torch.ones_like(panel.markets, dtype=torch.bool)
        last[:-1] = panel.markets[1:] != panel.markets[:-1]
        single = last.clone()
        single[1:] &= last[:-1]
        self.fixed = single  # a market of one block cannot be shifted
        self.kept = torch.nonzero(~last | single).flatten() if seed is not None else torch.arange(len(last))

    def __len__(self) -> int:
        """Batches of the epoch."""
        return math.ceil(len(self.kept) / self.batch_blocks)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch."""
        panel, chosen, starts = self.panel, self.kept.to(self.panel.starts.device), self.panel.starts
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed)
            shift = 1 + int(torch.randint(panel.windows.stride, (1,), generator=generator))
            starts = starts + shift * ~self.fixed.to(starts.device)
            chosen = chosen[torch.randperm(len(chosen), generator=generator).to(chosen.device)]
        for several in torch.split(chosen, self.batch_blocks):
            # of a last batch that is too small to share, every rank takes the whole: all make the same number of steps
            own = several[self.rank :: self.n_ranks] if len(several) >= self.n_ranks else several
            places = starts[own]
            yield Batch(
                panel.cut(panel.inputs, places),
                panel.cut(panel.targets, places),
                panel.cut(panel.known, places),
                panel.markets[own],
            )


class Blocks(lightning.LightningDataModule):
    """The train panel, and the panel that stops the training where there is one; moved to the device once."""

    def __init__(self, train: Panel, stopping: Panel | None, batch_blocks: int, seed: int) -> None:
        """Hold the panels.

        Args:
            train: What is trained on.
            stopping: What stops the training; None where the number of steps is fixed.
            batch_blocks: Blocks of one optimiser step.
            seed: Seed of offsets and order, of each epoch by its number.
        """
        super().__init__()
        self.train_panel, self.stopping_panel = train, stopping
        self.batch_blocks, self.seed = batch_blocks, seed

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning names it
        """Move the panels to the device of the training."""
        device = self._trainer.strategy.root_device
        self.train_panel = self.train_panel.on(device)
        self.stopping_panel = self.stopping_panel.on(device) if self.stopping_panel is not None else None

    def train_dataloader(self) -> BlockBatches:
        """The batches of the present epoch: they follow from seed and number, so that a resumed epoch is the same."""
        trainer = self._trainer
        seed = epoch_seed(self.seed, trainer.current_epoch, stream=0)
        return BlockBatches(self.train_panel, self.batch_blocks, seed, trainer.global_rank, trainer.world_size)

    def val_dataloader(self) -> BlockBatches | list[Batch]:
        """The anchored blocks of the stopping slice."""
        return BlockBatches(self.stopping_panel, self.batch_blocks, None) if self.stopping_panel is not None else []

    @property
    def _trainer(self) -> lightning.Trainer:
        assert self.trainer is not None
        return self.trainer


def epoch_seed(seed: int, epoch: int, stream: int) -> int:
    """Seed of one of the streams of random numbers of an epoch."""
    return (seed * _SEEDS_APART + epoch) * _STREAMS + stream
