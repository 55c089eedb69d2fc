from itertools import product
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.model.heads import HeadName
from gatecast.model.networks import Architecture, CausalConvolutions, Network, NetworkName, load_network
from gatecast.model.predictions import LEVELS

NETWORKS, HEADS = get_args(NetworkName), get_args(HeadName)
BOTH = torch.tensor([0, 1])


def network(seed: int = 0, **changed: Any) -> Network:
    architecture = {
        "network": "lstm",
        "head": "quantiles",
        "normalisation": "none",
        "n_inputs": 5,
        "n_horizons": 3,
        "n_markets": 2,
        "embedding_size": 3,
        "hidden_size": 8,
        "n_layers": 1,
        "dropout": 0.2,
        "kernel_bars": 4,
        "n_attention_heads": 2,
        **changed,
    }
    torch.manual_seed(seed)
    return Network(Architecture(**architecture)).eval()


@pytest.mark.parametrize(("name", "head", "normalisation"), [*product(NETWORKS, HEADS, ["none", "layer"])])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.01, 1e3))
def test_quantiles_never_cross(name: str, head: str, normalisation: str, seed: int, size: float) -> None:
    net = network(seed, network=name, head=head, normalisation=normalisation)
    with torch.no_grad():
        quantiles = net(torch.randn(2, 20, 5) * size, BOTH)
    assert quantiles.shape == (2, 20, 3, len(LEVELS))
    assert torch.isfinite(quantiles).all()
    assert (quantiles.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize(("name", "normalisation", "n_layers"), [*product(NETWORKS, ["none", "layer"], [1, 2])])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), bar=st.integers(0, 18))
def test_the_output_at_a_bar_does_not_move_when_later_inputs_do(
    name: str, normalisation: str, n_layers: int, seed: int, bar: int
) -> None:
    net, inputs = network(seed, network=name, normalisation=normalisation, n_layers=n_layers), torch.randn(2, 20, 5)
    changed = inputs.clone()
    changed[:, bar + 1 :] = 50 * torch.randn_like(changed[:, bar + 1 :])
    with torch.no_grad():
        before, after = net(inputs, BOTH), net(changed, BOTH)
    torch.testing.assert_close(before[:, : bar + 1], after[:, : bar + 1], rtol=0, atol=0)
    assert not torch.equal(before[:, bar + 1 :], after[:, bar + 1 :])


def test_a_convolution_that_is_padded_on_both_sides_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = CausalConvolutions.forward

    def centred(self: CausalConvolutions, inputs: torch.Tensor) -> torch.Tensor:
        return honest(self, inputs.roll(-1, dims=1))

    monkeypatch.setattr(CausalConvolutions, "forward", centred)
    with pytest.raises(AssertionError, match="not equal"):
        test_the_output_at_a_bar_does_not_move_when_later_inputs_do("cnn_lstm", "none", 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_at_a_bar_follows_from_earlier_bars_and_from_the_market(name: str) -> None:
    net, inputs = network(network=name), torch.randn(2, 20, 5)
    changed = inputs.clone()
    changed[:, 10] += 1
    with torch.no_grad():
        assert not torch.allclose(net(inputs, BOTH)[:, 15], net(changed, BOTH)[:, 15])
        same = inputs[:1].repeat(2, 1, 1)
        assert not torch.allclose(net(same, BOTH)[0], net(same, BOTH)[1])


def test_a_market_that_is_alone_has_no_embedding() -> None:
    assert network(n_markets=1).embedding is None
    assert network(embedding_size=0).embedding is None
    assert network(n_markets=1).lstm.input_size == 5
    assert network().lstm.input_size == 8


def test_the_lstm_is_its_equations() -> None:
    net = network(n_markets=1).double()
    inputs = torch.randn(1, 6, 5, dtype=torch.float64)
    weights = dict(net.lstm.named_parameters())
    h = c = torch.zeros(8, dtype=torch.float64)
    with torch.no_grad():
        for bar, x in enumerate(inputs[0]):
            gates = weights["weight_ih_l0"] @ x + weights["weight_hh_l0"] @ h
            i, f, g, o = (gates + weights["bias_ih_l0"] + weights["bias_hh_l0"]).chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            torch.testing.assert_close(net.states(inputs, BOTH[:1])[0, bar], h)


@pytest.mark.parametrize("name", NETWORKS)
def test_loading_gives_the_same_network_and_draws_no_random_number(name: str) -> None:
    net, inputs = network(network=name), torch.randn(2, 20, 5)
    state = torch.get_rng_state()
    loaded = load_network(net.architecture, net.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(net(inputs, BOTH), loaded(inputs, BOTH))
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        load_network(network(network=name, hidden_size=4).architecture, net.state_dict())
