"""The networks: features of a stretch of bars in, the distribution of the scaled log return at every bar out.

What is said at bar t follows from the bars up to t: convolutions are padded on the left alone, the recurrence runs
forward, attention is masked.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecast.model.heads import HEADS, HeadName

NetworkName = Literal["lstm", "cnn_lstm", "attention_lstm"]
Normalisation = Literal["none", "layer"]


@dataclass(frozen=True)
class Architecture:
    """What a network is built from; with the weights it is the whole network.

    Attributes:
        network: Variant.
        head: Reading of the outputs.
        normalisation: Of the states before the head.
        n_inputs: Channels a bar.
        n_horizons: Horizons.
        n_markets: Markets that share the network.
        embedding_size: Channels that tell the markets apart, if there are several.
        hidden_size: Width of the state.
        n_layers: Stacked LSTM layers.
        dropout: Rate at which, while training, whole inputs are left out of a block, and channels of the head's input
            and between layers.
        kernel_bars: Bars that a convolution of `cnn_lstm` sees.
        n_attention_heads: Of `attention_lstm`.
    """

    network: NetworkName
    head: HeadName
    normalisation: Normalisation
    n_inputs: int
    n_horizons: int
    n_markets: int
    embedding_size: int
    hidden_size: int
    n_layers: int
    dropout: float
    kernel_bars: int
    n_attention_heads: int


class CausalConvolutions(nn.Module):
    """Two convolutions over the bars, padded on the left alone: the last tap lies on the bar itself.

    Source:
        van den Oord et al. (2016), WaveNet, arXiv:1609.03499 (there with dilation).
    """

    def __init__(self, n_inputs: int, width: int, kernel_bars: int) -> None:
        """Set up the layers."""
        super().__init__()
        self.past = kernel_bars - 1
        self.first = nn.Conv1d(n_inputs, width, kernel_bars)
        self.second = nn.Conv1d(width, width, kernel_bars)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T, F) to (B, T, W)."""
        channels = inputs.transpose(1, 2)  # (B, F, T)
        first = functional.gelu(self.first(functional.pad(channels, (self.past, 0))))  # (B, W, T)
        second = functional.gelu(self.second(functional.pad(first, (self.past, 0))))  # (B, W, T)
        return (first + second).transpose(1, 2)


class CausalAttention(nn.Module):
    """Each state looks at itself and the states before it in its block, and is added to what it found there.

    Source:
        Vaswani et al. (2017), Attention Is All You Need, NeurIPS 30.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        """Set up the layers; the width is a multiple of the heads."""
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, W) to (B, T, W)."""
        n_stretches, n_bars, _ = states.shape
        parts = self.query_key_value(self.norm(states)).view(n_stretches, n_bars, 3, self.n_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, N, T, W / N) each
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)  # (B, N, T, W / N)
        added: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return states + added


class Network(nn.Module):
    """An LSTM over the bars of a block, with what its variant puts in front of it or behind it, and a head.

    An LSTM carries two vectors from bar to bar: the cell c, its memory, and the state h, what it shows of it. At bar t,
    with inputs x and the state of the bar before, three gates between 0 and 1 decide, channel by channel, what happens
    to the memory (W, U and b are weights, * multiplies by channel, sigma is the logistic function):

        forget  f(t) = sigma(W_f x(t) + U_f h(t-1) + b_f)    how much of the old memory stays
        input   i(t) = sigma(W_i x(t) + U_i h(t-1) + b_i)    how much of the new candidate is written
        output  o(t) = sigma(W_o x(t) + U_o h(t-1) + b_o)    how much of the memory is shown
        candidate  g(t) = tanh(W_g x(t) + U_g h(t-1) + b_g)  what there is to write

        cell    c(t) = f(t) * c(t-1) + i(t) * g(t)
        state   h(t) = o(t) * tanh(c(t))

    The memory is added to, not multiplied through a nonlinearity at each bar, so that what happened a hundred bars ago
    still reaches the loss: that is what the gates are for. Where f stays near 1 a shock of the volatility is remembered
    for long; where it drops, the shock is forgotten. Both vectors are zero `burn_in` bars before the first bar that
    counts.

    Source:
        Hochreiter and Schmidhuber (1997), Long Short-Term Memory, Neural Computation 9(8); the forget gate is of Gers,
        Schmidhuber and Cummins (2000), Neural Computation 12(10); dropout that is the same at every bar of Gal and
        Ghahramani (2016), A Theoretically Grounded Application of Dropout in Recurrent Neural Networks, NeurIPS 29.
    """

    def __init__(self, architecture: Architecture) -> None:
        """Set up the layers."""
        super().__init__()
        self.architecture = architecture
        width = architecture.hidden_size
        several = architecture.n_markets > 1 and architecture.embedding_size > 0
        self.input_dropout = nn.Dropout1d(architecture.dropout)
        self.embedding = nn.Embedding(architecture.n_markets, architecture.embedding_size) if several else None
        n_inputs = architecture.n_inputs + (architecture.embedding_size if several else 0)
        convolved = architecture.network == "cnn_lstm"
        self.front = CausalConvolutions(n_inputs, width, architecture.kernel_bars) if convolved else nn.Identity()
        self.lstm = nn.LSTM(
            width if convolved else n_inputs,
            width,
            architecture.n_layers,
            batch_first=True,
            dropout=architecture.dropout if architecture.n_layers > 1 else 0.0,
        )
        attentive = architecture.network == "attention_lstm"
        self.attention = CausalAttention(width, architecture.n_attention_heads) if attentive else nn.Identity()
        self.norm = nn.LayerNorm(width) if architecture.normalisation == "layer" else nn.Identity()
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = HEADS[architecture.head](width, architecture.n_horizons)

    def states(self, inputs: Tensor, markets: Tensor) -> Tensor:
        """What the network knows at each bar.

        Args:
            inputs: (B, T, F); memory and state are zero before the first bar.
            markets: Number of the market of each stretch, (B,).

        Returns:
            (B, T, W).
        """
        inputs = self.input_dropout(inputs.transpose(1, 2)).transpose(
            1, 2
        )  # a feature is left out of all bars of a block
        if self.embedding is not None:
            which = self.embedding(markets)[:, None].expand(-1, inputs.shape[1], -1)  # (B, T, E)
            inputs = torch.cat([inputs, which], dim=-1)
        states, _ = self.lstm(self.front(inputs))  # (B, T, W)
        normalised: Tensor = self.norm(self.attention(states))
        return normalised

    def distribution(self, inputs: Tensor, markets: Tensor) -> Tensor:
        """Parameters of the head's distributions, (B, T, H, P); arguments as for `states`."""
        parameters: Tensor = self.head(self.dropout(self.states(inputs, markets)))
        return parameters

    def forward(self, inputs: Tensor, markets: Tensor) -> Tensor:
        """Quantiles of the scaled log return, (B, T, H, Q), non-decreasing in Q; arguments as for `states`."""
        return self.head.quantiles(self.distribution(inputs, markets))


def load_network(architecture: Architecture, weights: dict[str, Tensor]) -> Network:
    """A network with given weights, in evaluation mode.

    Raises:
        RuntimeError: Weights of another architecture.
    """
    with torch.device("meta"):  # or it would draw random weights first, and move the random numbers of a training on
        network = Network(architecture)
    network.load_state_dict(weights, assign=True)
    return network.eval()
