"""The peers of the model: an LSTM of the same size, trained on windows of 64 bars, as libraries do it.

Runs in an environment of its own (`make bench-model-peers`): `python model_peers.py ARCHIVE PEER CAP_S SEED`.

The archive of one market holds `inputs` (T, F), standardised; `targets` (T, H), scaled log returns, 0 where unknown;
`known` (T, H); `horizons` (H,); `levels` (Q,); `n_train`, the bars whose labels train; and `scored`, the validation
bars that are scored. Printed is one line of JSON: `curve`, the seconds of training and the validation pinball loss 24
bars ahead after every 1,024 windows, its `best`, `seconds_to_best`, and `constant`, the loss of the quantiles of all
train labels. Seconds run from the first batch to the last, with all that a library does in between. Imports,
preparation and validation are not in them. Validation is the same code for all: the network forecasts each scored bar
from its window, and its quantiles are sorted, which only helps.

The same for all: 64 bars of history, one layer of 64, a linear head of the quantiles, Adam at 0.001, float32, two
threads, and batches of 64, with which all are sooner at their best than with 128 and 256 (`loop` with 128 as soon). The
task is put to each so:

- `loop`, plain PyTorch: windows are gathered from memory by index, one label each; the head begins at the quantiles of
  the train labels.
- `darts`, BlockRNNModel: the series is the scaled return over 24 bars that *ended* at a bar, the inputs are past
  covariates, and one step is forecast, the 24th (`output_chunk_shift`). It is the label of the window's last bar.
- `neuralforecast`, LSTM: the same series and inputs, 24 steps. The decoder reads step k from the state of the window's
  bar 24 - k before its last, of which it is the label: so a window has 24 labels, each 24 bars ahead.

The other way around, 24 steps of darts and one of neuralforecast, differed by less than two seeds do. PyTorch's two
threads wait for each other: beside other work on the two cores all of this is tens of times slower.
"""

import json
import logging
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

HORIZON: Final = 24
WINDOW: Final = 64
HIDDEN: Final = 64
BATCH: Final = 64
LEARNING_RATE: Final = 1e-3
CHECK_WINDOWS: Final = 1024  # trained between two looks at the validation bars
PATIENCE_EPOCHS: Final = 2
MAX_STEPS: Final = 1_000_000  # the stop comes first
N_THREADS: Final = 2
Forecast = Callable[[Tensor], Tensor]  # windows (B, 64, C) to the quantiles of the label at their end, (B, Q)


@dataclass(frozen=True)
class Task:
    """One market, 24 bars ahead.

    Attributes:
        inputs: Standardised features, (T, F).
        targets: Scaled log return over the next 24 bars, 0 where unknown, (T,).
        known: Where it is known, 1.0 or 0.0, (T,).
        levels: Of the quantiles, (Q,).
        n_train: Labels of bars before this one train.
        scored: Validation bars that are scored, (S,).
    """

    inputs: Tensor
    targets: Tensor
    known: Tensor
    levels: Tensor
    n_train: int
    scored: Tensor

    def train_bars(self) -> Tensor:
        """Bars whose label is known and whose window is whole."""
        bars = torch.arange(WINDOW - 1, self.n_train)
        return bars[self.known[bars] > 0]

    def constant(self) -> Tensor:
        """Quantiles of the train labels, (Q,)."""
        return torch.quantile(self.targets[self.train_bars()], self.levels)

    def ended(self) -> tuple[Tensor, Tensor]:
        """The scaled return over 24 bars that ended at each bar, and whether it is known; both (T,)."""
        before = torch.zeros(HORIZON)
        return torch.cat([before, self.targets[:-HORIZON]]), torch.cat([before, self.known[:-HORIZON]])

    def loss(self, quantiles: Tensor) -> float:
        """Pinball loss of quantiles of the scored bars, (S, Q) or (Q,)."""
        return pinball(self.targets[self.scored], quantiles, self.levels).item()


def pinball(target: Tensor, quantiles: Tensor, levels: Tensor) -> Tensor:
    """Mean over labels (B,) and levels (Q,) of the quantile loss of (B, Q)."""
    error = target[:, None] - quantiles  # (B, Q)
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def windows_at(channels: Tensor, bars: Tensor) -> Tensor:
    """The windows of (T, C) that end at some bars, (B, 64, C)."""
    views = channels.unfold(0, WINDOW, 1)  # (T - 63, C, 64), nothing is copied
    return views[bars - WINDOW + 1].transpose(1, 2)


@dataclass
class Trial:
    """A stopwatch that stands still during validation, and the losses that it saw.

    Attributes:
        task: What is forecast.
        channels: What the network sees of each bar, (T, C).
        cap_s: Seconds of training after which it ends.
        n_parameters: Trained ones of the network.
        n_windows: Trained so far.
        seconds: Of training so far.
        curve: (seconds, validation loss) of each look.
    """

    task: Task
    channels: Tensor
    cap_s: float
    n_parameters: int = 0
    n_windows: int = 0
    seconds: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)
    _since: float = 0.0

    def begin(self, network: nn.Module) -> None:
        """Start the watch."""
        self.n_parameters = sum(each.numel() for each in network.parameters() if each.requires_grad)
        self._since = time.perf_counter()

    def goes_on(self, network: nn.Module, forecast: Forecast) -> bool:
        """Whether training goes on after one more batch; looks at the validation bars when it is time to."""
        self.n_windows += BATCH
        if self.n_windows % CHECK_WINDOWS:
            return True
        self.seconds += time.perf_counter() - self._since
        network.eval()
        with torch.inference_mode():
            quantiles = [forecast(windows_at(self.channels, bars)) for bars in torch.split(self.task.scored, 1024)]
        self.curve.append((self.seconds, self.task.loss(torch.cat(quantiles).sort(-1).values)))
        network.train()
        self._since = time.perf_counter()
        n_since = (len(self.curve) - 1 - self.curve.index(self._best)) * CHECK_WINDOWS
        return n_since < PATIENCE_EPOCHS * len(self.task.train_bars()) and self.seconds < self.cap_s

    @property
    def _best(self) -> tuple[float, float]:
        return min(self.curve, key=lambda look: look[1])

    def result(self) -> dict[str, Any]:
        """What is printed."""
        seconds_to_best, best = self._best
        return {
            "curve": [[round(seconds, 3), loss] for seconds, loss in self.curve],
            "best": best,
            "seconds_to_best": seconds_to_best,
            "constant": self.task.loss(self.task.constant()),
            "n_parameters": self.n_parameters,
            "n_windows_per_second": self.n_windows / self.seconds,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


class Watch(Callback):
    """A trial of a library that trains with Lightning."""

    def __init__(self, trial: Trial, forecast: Callable[[Any, Tensor], Tensor]) -> None:
        self.trial, self.forecast = trial, forecast

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watch":
        """Itself: neuralforecast trains a copy of the model that it is given."""
        return self

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the watch."""
        del trainer
        self.trial.begin(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Stop the training when the trial says so."""
        if not self.trial.goes_on(pl_module, lambda windows: self.forecast(pl_module, windows)):
            trainer.should_stop = True


def loop(task: Task, cap_s: float, seed: int) -> Trial:
    """One label a window, in plain PyTorch."""
    torch.manual_seed(seed)
    trial = Trial(task, task.inputs, cap_s)
    lstm, head = nn.LSTM(task.inputs.shape[1], HIDDEN, batch_first=True), nn.Linear(HIDDEN, len(task.levels))
    with torch.no_grad():
        head.bias.copy_(task.constant())
    network = nn.ModuleList([lstm, head])
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def forecast(windows: Tensor) -> Tensor:
        quantiles: Tensor = head(lstm(windows)[0][:, -1])
        return quantiles

    trial.begin(network)
    bars = task.train_bars()
    while True:
        for batch in torch.split(bars[torch.randperm(len(bars))], BATCH):
            optimizer.zero_grad()
            loss = pinball(task.targets[batch], forecast(windows_at(task.inputs, batch)), task.levels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if not trial.goes_on(network, forecast):
                return trial


def darts(task: Task, cap_s: float, seed: int) -> Trial:
    """BlockRNNModel of darts, one label a window."""
    from darts import TimeSeries  # type: ignore[import-not-found]  # the peers have an environment of their own
    from darts.models import BlockRNNModel  # type: ignore[import-not-found]
    from darts.utils.data.torch_datasets.utils import PLModuleInput  # type: ignore[import-not-found]
    from darts.utils.likelihood_models.torch import QuantileRegression  # type: ignore[import-not-found]

    ended, known = task.ended()
    trial = Trial(task, torch.column_stack([ended, task.inputs]), cap_s)

    def forecast(module: Any, windows: Tensor) -> Tensor:
        given = PLModuleInput(past_target=windows[..., :1], past_covariates=windows[..., 1:])
        quantiles: Tensor = module(given).prediction[:, 0, 0]  # of (B, 1, 1, Q)
        return quantiles

    model = BlockRNNModel(
        model="LSTM",
        input_chunk_length=WINDOW,
        output_chunk_length=1,
        output_chunk_shift=HORIZON - 1,
        hidden_dim=HIDDEN,
        n_rnn_layers=1,
        likelihood=QuantileRegression(task.levels.tolist()),
        optimizer_kwargs={"lr": LEARNING_RATE},
        batch_size=BATCH,
        n_epochs=MAX_STEPS,
        random_state=seed,
        pl_trainer_kwargs={**quiet_trainer(), "callbacks": [Watch(trial, forecast)]},
    )
    series, inputs, weight = (
        TimeSeries.from_values(values[: task.n_train + HORIZON].numpy()) for values in (ended, task.inputs, known)
    )
    model.fit(series, past_covariates=inputs, sample_weight=weight, verbose=False)
    return trial


def neuralforecast(task: Task, cap_s: float, seed: int) -> Trial:
    """LSTM of neuralforecast, 24 labels a window."""
    from neuralforecast import NeuralForecast  # type: ignore[import-not-found]
    from neuralforecast.losses.pytorch import MQLoss  # type: ignore[import-not-found]
    from neuralforecast.models import LSTM  # type: ignore[import-not-found]

    ended, known = task.ended()
    trial = Trial(task, torch.column_stack([ended, task.inputs]), cap_s)

    def forecast(module: Any, windows: Tensor) -> Tensor:
        given = {"insample_y": windows[..., :1], "hist_exog": windows[..., 1:], "futr_exog": None, "stat_exog": None}
        quantiles: Tensor = module(given)[:, -1]  # of (B, 24, Q)
        return quantiles

    names = [f"input_{number}" for number in range(task.inputs.shape[1])]
    model = LSTM(
        h=HORIZON,
        input_size=WINDOW,
        encoder_n_layers=1,
        encoder_hidden_size=HIDDEN,
        decoder_layers=1,
        hist_exog_list=names,
        loss=MQLoss(quantiles=task.levels.tolist()),
        max_steps=MAX_STEPS,
        val_check_steps=MAX_STEPS,
        learning_rate=LEARNING_RATE,
        windows_batch_size=BATCH,
        scaler_type="identity",  # all is standardised already
        random_seed=seed,
        **quiet_trainer(),
        callbacks=[Watch(trial, forecast)],
    )
    frame = pd.DataFrame(task.inputs.numpy(), columns=names).assign(
        unique_id="market", ds=np.arange(len(ended)), y=ended.numpy(), available_mask=known.numpy()
    )
    NeuralForecast([model], freq=1).fit(frame[: task.n_train + HORIZON])
    return trial


def quiet_trainer() -> dict[str, Any]:
    """Arguments of Lightning's trainer: this processor, and nothing beside the training."""
    return {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def read_task(archive: Path) -> Task:
    """The task of an archive, 24 bars ahead."""
    with np.load(archive) as arrays:
        column = arrays["horizons"].tolist().index(HORIZON)
        return Task(
            inputs=torch.from_numpy(arrays["inputs"]).float(),
            targets=torch.from_numpy(arrays["targets"][:, column]).float(),
            known=torch.from_numpy(arrays["known"][:, column]).float(),
            levels=torch.from_numpy(arrays["levels"]).float(),
            n_train=int(arrays["n_train"]),
            scored=torch.from_numpy(arrays["scored"]).long(),
        )


PEERS: Final[dict[str, Callable[[Task, float, int], Trial]]] = {
    "loop": loop,
    "darts": darts,
    "neuralforecast": neuralforecast,
}


def main() -> None:
    """Train one."""
    archive, name, cap_s, seed = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(N_THREADS)
    warnings.filterwarnings("ignore")  # both libraries and Lightning advise about much that is meant so here
    logging.disable(logging.WARNING)
    result = PEERS[name](read_task(archive), cap_s, seed).result()
    sys.stdout.write(json.dumps({"name": name, "seed": seed, **result}) + "\n")


if __name__ == "__main__":
    main()
