"""The networks: features of a stretch of bars in, quantiles of the scaled log return at every bar out."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecast.model.predictions import LEVELS

_MEDIAN = LEVELS.index(0.5)


class QuantileLSTM(nn.Module):
    """An LSTM whose state at each bar gives the quantiles of every horizon; they cannot cross.

    The state at bar t is a function of the bars up to t: the recurrence runs forward only.

    Source:
        Hochreiter and Schmidhuber (1997), Long Short-Term Memory, Neural Computation 9(8).
    """

    def __init__(self, n_inputs: int, n_horizons: int, hidden_size: int, n_layers: int, dropout: float) -> None:
        """Set up the layers.

        Args:
            n_inputs: Channels a bar.
            n_horizons: Horizons.
            hidden_size: Width of the state.
            n_layers: Stacked LSTM layers.
            dropout: Rate on the inputs of the head and between layers, while training.
        """
        super().__init__()
        self.n_horizons = n_horizons
        self.lstm = nn.LSTM(n_inputs, hidden_size, n_layers, batch_first=True, dropout=dropout if n_layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, n_horizons * len(LEVELS))

    def forward(self, inputs: Tensor) -> Tensor:
        """Quantiles of the scaled log return.

        Args:
            inputs: (B, T, F); the state starts at zero at the first bar.

        Returns:
            (B, T, H, Q), non-decreasing in Q.
        """
        states, _ = self.lstm(inputs)  # (B, T, hidden)
        raw = self.head(self.dropout(states)).unflatten(-1, (self.n_horizons, len(LEVELS)))  # (B, T, H, Q)
        median = raw[..., _MEDIAN : _MEDIAN + 1]
        below = functional.softplus(raw[..., :_MEDIAN]).flip(-1).cumsum(-1).flip(-1)  # distances down from the median
        above = functional.softplus(raw[..., _MEDIAN + 1 :]).cumsum(-1)
        return torch.cat([median - below, median, median + above], dim=-1)

    @torch.no_grad()
    def start_at(self, quantiles: Tensor) -> None:
        """Let the untrained network answer with constant quantiles, so that training begins at the EWMA baseline.

        Args:
            quantiles: Empirical quantiles of the scaled train targets, (H, Q), increasing in Q.
        """
        steps = quantiles.diff(dim=-1).clamp_min(1e-4)
        bias = torch.log(torch.expm1(steps))  # inverse of softplus
        self.head.weight.mul_(0.1)
        self.head.bias.copy_(
            torch.cat([bias[:, :_MEDIAN], quantiles[:, _MEDIAN : _MEDIAN + 1], bias[:, _MEDIAN:]], dim=-1).flatten()
        )


def pinball_loss(target: Tensor, quantiles: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean quantile loss over the levels, the discrete form of the CRPS when doubled.

    Args:
        target: Scaled log returns, (B, T, H).
        quantiles: Forecasts per level, (B, T, H, Q).
        weight: Weight of each forecast, 0 where the target is unknown, (B, T, H).

    Returns:
        Scalar, in units of the target.

    Source:
        Koenker and Bassett (1978), Regression Quantiles, Econometrica 46(1).
    """
    levels = torch.tensor(LEVELS, dtype=quantiles.dtype, device=quantiles.device)
    error = target[..., None] - quantiles  # (B, T, H, Q)
    loss = torch.maximum(levels * error, (levels - 1) * error).mean(-1)  # (B, T, H)
    return (loss * weight).sum() / weight.sum().clamp_min(1e-12)
