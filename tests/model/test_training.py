import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from gatecast.config import Config, ModelConfig
from gatecast.errors import GatecastError
from gatecast.model import callbacks, training
from gatecast.model.batches import BlockBatches, epoch_seed
from gatecast.model.callbacks import Checkpoint
from gatecast.model.heads import pinball_loss
from gatecast.model.networks import Network, NetworkName
from gatecast.model.procedure import TrainingInputs, training_inputs
from gatecast.model.training import EarlyStop, Hyperparameters, cosine_rate, train_network
from gatecast.model.windows import Panel
from tests.conftest import clean_candles, feature_table, random_candles, small_recipe

HYPERPARAMETERS = Hyperparameters(hidden_size=4, learning_rate=0.01, dropout=0.2, weight_decay=0.01)
SEED = 7


@pytest.fixture(scope="module")
def settings(config: Config) -> ModelConfig:
    small = {"stride": 32, "burn_in": 16, "batch_blocks": 4, "horizons": (1, 6), "n_layers": 2}
    return config.model.model_copy(update=small)


@pytest.fixture(scope="module")
def rows(config: Config, settings: ModelConfig) -> pl.DataFrame:
    return feature_table(clean_candles(random_candles(900)), small_recipe(config), settings.horizons)


@pytest.fixture(scope="module")
def inputs(rows: pl.DataFrame, settings: ModelConfig) -> TrainingInputs:
    return training_inputs(rows[:600], HYPERPARAMETERS, settings)


Train = Callable[..., tuple[Network, int]]


@pytest.fixture(scope="module")
def train(inputs: TrainingInputs, settings: ModelConfig) -> Train:
    """`train_network` on the small panel; keywords replace its arguments, or values of the configuration."""

    def small(
        panel: Panel = inputs.panel,
        hyperparameters: Hyperparameters = HYPERPARAMETERS,
        seed: int = SEED,
        **changed: Any,
    ) -> tuple[Network, int]:
        how = {key: changed.pop(key) for key in ("n_steps", "early_stop", "checkpoint", "label") if key in changed}
        config = settings.model_copy(update=changed)
        named: dict[str, Any] = {"network": config.network, "head": config.head, "n_layers": config.n_layers}
        drawn: dict[str, Any] = {"hidden_size": hyperparameters.hidden_size, "dropout": hyperparameters.dropout}
        architecture = replace(inputs.model.architecture, **named, **drawn)
        return train_network(panel, architecture, hyperparameters, config, seed, **how)

    return small


class Steps(torch.optim.AdamW):
    """AdamW that notes of each step its rate, the norm of the clipped gradient, the seed last set and the threads."""

    rates: list[float]
    norms: list[float]
    seeds: list[int]
    threads: list[int]

    def step(self, closure: Any = None) -> Any:
        def observed() -> Any:
            loss = closure()
            gradients = [each.grad for each in self.param_groups[0]["params"] if each.grad is not None]
            self.norms.append(float(nn.utils.get_total_norm(gradients)))
            self.rates.append(self.param_groups[0]["lr"])
            self.seeds.append(torch.initial_seed())
            self.threads.append(torch.get_num_threads())
            return loss

        return super().step(observed)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Steps]]:
    Steps.rates, Steps.norms, Steps.seeds, Steps.threads = [], [], [], []
    monkeypatch.setattr(torch.optim, "AdamW", Steps)
    yield Steps


class Interrupted(Exception):
    pass


class Interrupting(Checkpoint):
    """Saves after every epoch, and ends the training after the one given."""

    def __init__(self, path: Path, epoch: int | None) -> None:
        super().__init__(path, every_s=0)
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch == self.epoch:
            raise Interrupted


Interrupt = Callable[[int | None], None]


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Let a training save after every epoch, and end after the one given."""
    return lambda epoch: monkeypatch.setattr(training, "Checkpoint", partial(Interrupting, epoch=epoch))


def same_weights(one: Network, other: Network) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("network", "schedule"), [*product(get_args(NetworkName), ["constant", "cosine"])])
def test_an_interrupted_training_goes_on_and_ends_with_the_weights_of_an_uninterrupted_one(
    network: str,
    schedule: str,
    train: Train,
    steps: type[Steps],
    interrupt_after: Interrupt,
    tmp_path: Path,
) -> None:
    how = {"network": network, "schedule": schedule, "n_steps": 14}  # of 4 an epoch: it ends within one
    whole, _ = train(**how)
    assert len(steps.rates) == 14
    rates = steps.rates.copy()
    steps.rates.clear()
    for epoch in (0, 2):
        interrupt_after(epoch)
        with pytest.raises(Interrupted):
            train(**how, checkpoint=tmp_path / "it.ckpt")
    assert len(steps.rates) == 12
    interrupt_after(None)
    resumed, n_steps = train(**how, checkpoint=tmp_path / "it.ckpt")
    assert steps.rates == rates
    assert n_steps == 14
    assert same_weights(resumed, whole)


def test_a_checkpoint_is_written_now_and_then_and_not_after_every_epoch(train: Train, tmp_path: Path) -> None:
    train(n_steps=14, checkpoint=tmp_path / "it.ckpt")
    assert list(tmp_path.iterdir()) == []


class Planted:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def flipped(content: bytes) -> bytes:
    """One bit of the largest stretch of weights is another one."""
    place = content.index(b"FB") + 64  # PyTorch pads the beginning of each tensor with these letters
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", ["truncated", "empty", "random", "flipped", "code", "code in an archive"])
def test_a_damaged_checkpoint_is_put_aside_and_the_training_begins_anew(
    damage: str,
    train: Train,
    interrupt_after: Interrupt,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path, touched = tmp_path / "it.ckpt", tmp_path / "touched"
    interrupt_after(1)
    with pytest.raises(Interrupted):
        train(n_steps=9, checkpoint=path)
    interrupt_after(None)
    good = path.read_bytes()
    torch.save({"state_dict": Planted(touched)}, tmp_path / "archive")
    content = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "random": torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0))
        .to(torch.uint8)
        .numpy()
        .tobytes(),
        "flipped": flipped(good),
        "code": pickle.dumps(Planted(touched)),
        "code in an archive": (tmp_path / "archive").read_bytes(),
    }[damage]
    path.write_bytes(content)
    network, n_steps = train(n_steps=9, checkpoint=path)
    assert n_steps == 9
    assert same_weights(network, train(n_steps=9)[0])
    assert not touched.exists()
    assert (tmp_path / "it.ckpt.damaged").read_bytes() == content
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"{path} is damaged: it is put aside as it.ckpt.damaged, and the training begins anew"]


def first_seen(panel: Panel, config: ModelConfig, place: int) -> tuple[int, int]:
    """Epoch and batch in which a bar is first trained on."""
    marked = replace(panel, known=torch.zeros_like(panel.known))
    marked.known[place] = 1
    for epoch in range(10):
        for number, batch in enumerate(BlockBatches(marked, config.batch_blocks, epoch_seed(SEED, epoch, stream=0))):
            if batch.known[:, config.burn_in :].any():
                return epoch, number
    raise AssertionError(f"bar {place} is never trained on")


@pytest.fixture(scope="module")
def spoilt(inputs: TrainingInputs, settings: ModelConfig) -> tuple[Panel, int, int]:
    """The panel with a target that is not a number, and the epoch and batch, neither the first, that first meet it."""
    panel = inputs.panel
    for place in range(int(panel.starts[0]) + settings.burn_in + 1, len(panel.rows)):
        epoch, number = first_seen(panel, settings, place)
        if epoch > 0 and number > 0 and panel.known[place].all():
            targets = panel.targets.clone()
            targets[place] = torch.inf
            return replace(panel, targets=targets), epoch, number
    raise AssertionError("no such bar")


def test_a_loss_that_is_not_a_number_is_one_line_with_epoch_and_batch_and_no_checkpoint_keeps_it(
    spoilt: tuple[Panel, int, int],
    train: Train,
    interrupt_after: Interrupt,
    tmp_path: Path,
) -> None:
    panel, epoch, batch = spoilt
    interrupt_after(None)
    for _ in range(2):  # the second goes on from before it
        with pytest.raises(GatecastError) as caught:
            train(panel, n_steps=100, checkpoint=tmp_path / "it.ckpt")
        line = str(caught.value)
        assert line.startswith(f"the training loss is inf at epoch {epoch}, batch {batch}: ")
        assert "lower tune.learning_rate.high (this network uses 0.01)" in line
        assert "\n" not in line


def test_weights_that_are_not_numbers_do_not_leave_the_training(train: Train) -> None:
    wild = replace(HYPERPARAMETERS, learning_rate=1e37, weight_decay=1e3)
    with pytest.raises(GatecastError, match="the last optimiser step left weights that are not numbers: lower"):
        train(hyperparameters=wild, n_steps=1, schedule="constant")


def test_a_stopping_loss_that_is_never_a_number_is_one_line(train: Train, inputs: TrainingInputs) -> None:
    stop = EarlyStop(replace(inputs.panel, targets=inputs.panel.targets * torch.nan), max_epochs=3, patience=2)
    with pytest.raises(GatecastError, match="loss on the stopping slice is not a number after any epoch"):
        train(early_stop=stop)


def test_a_train_slice_without_a_target_is_one_line(inputs: TrainingInputs, train: Train) -> None:
    with pytest.raises(GatecastError, match="no target is known in the train slice"):
        train(replace(inputs.panel, known=torch.zeros_like(inputs.panel.known)), n_steps=2)


@pytest.mark.parametrize("n_steps", [1, 7, 10, 150, 2000])
def test_the_rate_begins_low_peaks_after_a_tenth_and_ends_near_nothing(n_steps: int) -> None:
    shares = [cosine_rate(step, n_steps) for step in range(n_steps)]
    assert all(0 < share <= 1 for share in shares)
    peak = max(range(n_steps), key=lambda step: shares[step])
    assert peak <= 0.1 * n_steps
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert cosine_rate(n_steps, n_steps) == 0
    if n_steps >= 150:
        assert shares[0] < 0.1
        assert shares[peak] > 0.97
        assert shares[-1] < 1e-3


def test_the_optimiser_takes_the_steps_asked_for_at_the_rate_of_the_schedule(train: Train, steps: type[Steps]) -> None:
    _, n_steps = train(n_steps=30, schedule="cosine")
    assert n_steps == 30
    assert steps.rates == pytest.approx([0.01 * cosine_rate(step, 30) for step in range(30)])
    steps.rates.clear()
    train(n_steps=3, schedule="constant")
    assert steps.rates == [0.01] * 3


def test_the_gradient_of_a_step_is_clipped(train: Train, steps: type[Steps]) -> None:
    train(n_steps=8, gradient_clip=1e9)
    free = steps.norms.copy()
    steps.norms.clear()
    limit = sorted(free)[0] / 2
    train(n_steps=8, gradient_clip=limit)
    assert steps.norms == pytest.approx([limit] * 8, rel=1e-3)


def test_early_stopping_ends_with_the_weights_of_the_best_epoch_and_its_number_of_steps(
    rows: pl.DataFrame, inputs: TrainingInputs, train: Train, steps: type[Steps]
) -> None:
    stop = EarlyStop(inputs.model.panel(rows[620:]), max_epochs=12, patience=3)
    greedy = replace(HYPERPARAMETERS, learning_rate=0.05)
    found, n_steps = train(hyperparameters=greedy, early_stop=stop, schedule="cosine")
    n_taken, n_epoch = len(steps.rates), 4
    assert set(steps.rates) == {0.05}
    assert 0 < n_steps < n_taken  # it went on, and came back
    assert n_steps % n_epoch == 0
    assert n_taken in (n_steps + 3 * n_epoch, 12 * n_epoch)
    fixed = {n: train(hyperparameters=greedy, n_steps=n, schedule="constant")[0] for n in range(4, 49, 4)}
    assert same_weights(found, fixed[n_steps])
    losses = {n: stopping_loss(network, stop.panel) for n, network in fixed.items() if n <= n_taken}
    assert min(losses, key=lambda n: losses[n]) == n_steps


def test_a_training_that_is_never_stopped_ends_with_its_last_epoch(
    rows: pl.DataFrame, inputs: TrainingInputs, train: Train, steps: type[Steps]
) -> None:
    train(early_stop=EarlyStop(inputs.model.panel(rows[620:]), max_epochs=2, patience=100))
    assert len(steps.rates) == 2 * 4


def stopping_loss(network: Network, panel: Panel) -> float:
    (batch,) = BlockBatches(panel, len(panel.starts), None)
    burn_in = panel.windows.burn_in
    with torch.no_grad():
        quantiles = network(batch.inputs, batch.markets)[:, burn_in:]
    return float(pinball_loss(batch.targets[:, burn_in:], quantiles, batch.known[:, burn_in:]))


def test_the_weights_follow_from_the_seed(train: Train) -> None:
    first = train(n_steps=6)[0]
    torch.manual_seed(12345)  # what was drawn before is of no consequence
    assert same_weights(first, train(n_steps=6)[0])
    assert not same_weights(first, train(n_steps=6, seed=SEED + 1)[0])


def test_the_dropout_of_an_epoch_has_a_seed_of_its_own(train: Train, steps: type[Steps]) -> None:
    for seed in (7, 8):
        train(n_steps=12, seed=seed)
    dropout = [steps.seeds[at] for at in range(0, 24, 4)]
    assert steps.seeds == [seed for seed in dropout for _ in range(4)]
    order = [epoch_seed(seed, epoch, stream=0) for seed in (7, 8) for epoch in range(3)]
    assert len({*dropout, *order}) == 12


def test_the_weight_decay_is_in_force(train: Train) -> None:
    bare, heavy = (replace(HYPERPARAMETERS, weight_decay=decay) for decay in (0.0, 10.0))
    weights = [train(n_steps=20, hyperparameters=rates)[0].state_dict() for rates in (bare, heavy)]
    norms = [float(each["lstm.weight_hh_l0"].norm()) for each in weights]
    assert norms[1] < norms[0] / 2


def test_a_training_uses_one_thread_and_leaves_their_number_as_it_was(train: Train, steps: type[Steps]) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(train(n_steps=6)[0])
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert same_weights(*found)
    assert steps.threads == [1] * 12


def test_a_trained_network_is_in_evaluation_mode(train: Train) -> None:
    assert not any(module.training for module in train(n_steps=1)[0].modules())


def test_a_long_training_says_now_and_then_how_far_it_is(
    train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = count(step=4)  # seconds: it is read at the beginning, and after each step
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    train(n_steps=12, label="fold 2, network 1/3")
    assert capfd.readouterr().err.splitlines() == [
        "fold 2, network 1/3: epoch 1, step 4 of 12, about 32 s left",
        "fold 2, network 1/3: epoch 2, step 8 of 12, about 16 s left",
        "fold 2, network 1/3: epoch 3, step 12 of 12, about 0 s left",
    ]


def test_a_short_training_says_nothing(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    train(n_steps=5, label="network")
    said = capfd.readouterr()
    assert said.out + said.err == ""


def distance(one: Network, other: Network) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)


@pytest.fixture(scope="module")
def even(inputs: TrainingInputs) -> dict[str, Any]:
    """No dropout, and as many known targets for each process: else the mean of their losses is another one."""
    panel = replace(inputs.panel, known=torch.ones_like(inputs.panel.known))
    return {"panel": panel, "hyperparameters": replace(HYPERPARAMETERS, dropout=0.0)}


@pytest.mark.slow
def test_two_processes_that_share_each_step_are_interrupted_go_on_and_come_to_the_weights_of_one(
    even: dict[str, Any],
    train: Train,
    interrupt_after: Interrupt,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    interrupt_after(0)
    with pytest.raises(ProcessRaisedException, match="Interrupted"):
        train(**even, n_steps=10, n_devices=2, checkpoint=tmp_path / "it.ckpt")
    interrupt_after(None)
    saved = torch.load(tmp_path / "it.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    capfd.readouterr()
    two, n_steps = train(**even, n_steps=10, n_devices=2, checkpoint=tmp_path / "it.ckpt")
    said = capfd.readouterr()
    assert said.out + said.err == ""
    assert n_steps == 10
    one, _ = train(**even, n_steps=10)
    assert distance(one, train(**even, n_steps=9)[0]) > 1e-3
    assert distance(one, two) < 1e-4  # sums in another order


@pytest.mark.slow
def test_two_processes_stop_early_where_one_does(
    even: dict[str, Any], rows: pl.DataFrame, inputs: TrainingInputs, train: Train
) -> None:
    how = {**even, "early_stop": EarlyStop(inputs.model.panel(rows[620:]), max_epochs=3, patience=1)}
    (one, n_one), (two, n_two) = train(**how), train(**how, n_devices=2)
    assert n_one == n_two > 0
    assert distance(one, two) < 1e-4


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_in_one_of_two_processes_is_the_same_line(
    spoilt: tuple[Panel, int, int], train: Train
) -> None:
    panel, epoch, batch = spoilt
    with pytest.raises(GatecastError) as caught:
        train(panel, n_steps=100, n_devices=2)
    assert str(caught.value).startswith(f"the training loss is inf at epoch {epoch}, batch {batch}: lower ")
