import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.model.networks import QuantileLSTM, pinball_loss
from gatecast.model.predictions import LEVELS


def network(seed: int, hidden_size: int = 8, n_layers: int = 1) -> QuantileLSTM:
    torch.manual_seed(seed)
    return QuantileLSTM(5, 3, hidden_size, n_layers, 0.2).eval()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.01, 1e3))
def test_quantiles_never_cross(seed: int, size: float) -> None:
    with torch.no_grad():
        quantiles = network(seed)(torch.randn(2, 20, 5) * size)
    assert quantiles.shape == (2, 20, 3, len(LEVELS))
    assert (quantiles.diff(dim=-1) >= 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), bar=st.integers(0, 18), n_layers=st.integers(1, 2))
def test_the_output_at_a_bar_does_not_move_when_later_inputs_do(seed: int, bar: int, n_layers: int) -> None:
    net, inputs = network(seed, n_layers=n_layers), torch.randn(2, 20, 5)
    changed = inputs.clone()
    changed[:, bar + 1 :] = 50 * torch.randn_like(changed[:, bar + 1 :])
    with torch.no_grad():
        torch.testing.assert_close(net(inputs)[:, : bar + 1], net(changed)[:, : bar + 1], rtol=0, atol=0)
        assert not torch.equal(net(inputs)[:, bar + 1 :], net(changed)[:, bar + 1 :])


def test_an_untrained_network_answers_near_the_quantiles_it_starts_at() -> None:
    start = torch.linspace(-1.5, 1.5, len(LEVELS)).repeat(3, 1)
    net = network(0)
    net.start_at(start)
    net.head.weight.data.zero_()
    with torch.no_grad():
        torch.testing.assert_close(net(torch.randn(1, 4, 5))[0, 2], start)


def test_pinball_loss_is_its_definition() -> None:
    generator = np.random.default_rng(0)
    target, quantiles = generator.standard_normal((2, 3, 2)), np.sort(generator.standard_normal((2, 3, 2, len(LEVELS))))
    weight = generator.integers(0, 2, (2, 3, 2)).astype(float)
    total = 0.0
    for index in np.ndindex(target.shape):
        losses = [
            level * (target[index] - q) if target[index] >= q else (1 - level) * (q - target[index])
            for level, q in zip(LEVELS, quantiles[index], strict=True)
        ]
        total += weight[index] * sum(losses) / len(LEVELS)
    ours = pinball_loss(torch.tensor(target), torch.tensor(quantiles), torch.tensor(weight))
    assert abs(float(ours) - total / weight.sum()) < 1e-12
