"""The heads: from the state at a bar to the distribution of the scaled log return at every horizon.

Each is a linear layer with a reading of its outputs: `quantiles` are what everyone else sees, `loss` is what training
lowers. Both are scored by the same pinball loss over `LEVELS`.
"""

from typing import Final, Literal

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.distributions import StudentT
from torch.nn import functional

from gatecast.model.predictions import LEVELS

HeadName = Literal["quantiles", "student_t"]
_MEDIAN: Final = LEVELS.index(0.5)
_QUARTILES: Final = (LEVELS.index(0.25), LEVELS.index(0.75))
_LEAST_STEP: Final = 1e-4  # between neighbouring quantiles at the start, in units of the scaled target
_LEAST_SCALE: Final = 1e-3
_SLOW: Final = 0.1
_LARGEST_LOG: Final = 4.0  # a step is at most 55 times that of the train part, and at least a 55th
_LEAST_FREEDOM: Final = 2.0  # below it a Student-t has no variance
_START_FREEDOM: Final = 4.0  # hourly and daily returns of any market have tails about this heavy


class QuantileHead(nn.Module):
    """A quantile a level, trained by pinball loss; they cannot cross.

    The quantiles of the train part are moved by the state: their median by a centre, the steps between neighbouring
    levels by a factor that all share and by one of their own. Centre and shape answer a tenth as fast as the common
    factor, since the scale of a return can be told from the past, its centre and the shape hardly: at the same rate
    they learn the noise first.
    """

    def __init__(self, width: int, n_horizons: int) -> None:
        """Set up the layer for states of a width."""
        super().__init__()
        self.base = nn.Parameter(torch.zeros(n_horizons, len(LEVELS)))  # median, and steps before the softplus
        self.linear = nn.Linear(width, n_horizons * (len(LEVELS) + 1))

    def forward(self, states: Tensor) -> Tensor:
        """Centre, log of the common factor, and of each step's own, (B, T, H, Q + 1), from states, (B, T, W)."""
        raw: Tensor = self.linear(states)
        return raw.view(*raw.shape[:-1], len(self.base), len(LEVELS) + 1)

    def quantiles(self, parameters: Tensor) -> Tensor:
        """Scaled log returns at `LEVELS`, (B, T, H, Q), non-decreasing in Q."""
        centre, common, own = parameters[..., :1], parameters[..., 1:2], parameters[..., 2:]
        factors = torch.exp((common + _SLOW * own).clamp(-_LARGEST_LOG, _LARGEST_LOG))  # (B, T, H, Q - 1)
        median = self.base[:, :1] + _SLOW * centre  # (B, T, H, 1)
        steps = functional.softplus(self.base[:, 1:]) * factors  # (B, T, H, Q - 1), from the lowest level up
        below = steps[..., :_MEDIAN].flip(-1).cumsum(-1).flip(-1)  # distances from the median
        above = steps[..., _MEDIAN:].cumsum(-1)
        return torch.cat([median - below, median, median + above], dim=-1)

    def loss(self, target: Tensor, parameters: Tensor, weight: Tensor) -> Tensor:
        """Pinball loss, see `pinball_loss`."""
        return pinball_loss(target, self.quantiles(parameters), weight)

    @torch.no_grad()
    def start_at(self, quantiles: Tensor) -> None:
        """Let the untrained network answer with about these quantiles, so that training begins at the EWMA baseline.

        Args:
            quantiles: Empirical quantiles of the scaled train targets, (H, Q), increasing in Q.
        """
        steps = quantiles.diff(dim=-1)
        self.base.copy_(torch.cat([quantiles[:, _MEDIAN : _MEDIAN + 1], _before_softplus(steps)], dim=-1))
        _start_small(self.linear)


class StudentTHead(nn.Module):
    """Location, scale and degrees of freedom of a Student-t a horizon, trained by likelihood.

    The location answers a tenth as fast as the scale, as the centre of `QuantileHead` does.

    Source:
        Student (1908), The Probable Error of a Mean, Biometrika 6(1); its quantiles from SciPy (`stdtrit`).
    """

    def __init__(self, width: int, n_horizons: int) -> None:
        """Set up the layer for states of a width."""
        super().__init__()
        self.base = nn.Parameter(torch.zeros(n_horizons, 3))  # location, and scale and freedom before the softplus
        self.linear = nn.Linear(width, n_horizons * 3)

    def forward(self, states: Tensor) -> Tensor:
        """Location, scale and degrees of freedom, (B, T, H, 3), from states, (B, T, W)."""
        raw: Tensor = self.linear(states)
        location, scale, freedom = raw.view(*raw.shape[:-1], len(self.base), 3).unbind(-1)  # (B, T, H) each
        base = self.base.unbind(-1)  # (H) each
        positive = functional.softplus(base[1] + scale) + _LEAST_SCALE
        heavy = functional.softplus(base[2] + freedom) + _LEAST_FREEDOM
        return torch.stack([base[0] + _SLOW * location, positive, heavy], dim=-1)

    def quantiles(self, parameters: Tensor) -> Tensor:
        """Scaled log returns at `LEVELS`, (B, T, H, Q), increasing in Q; they carry no gradient to the freedom."""
        location, scale, freedom = parameters.unbind(-1)  # (B, T, H) each
        standard = stdtrit(freedom.detach().double().cpu().numpy()[..., None], np.array(LEVELS))  # (B, T, H, Q)
        return location[..., None] + scale[..., None] * torch.from_numpy(standard).to(scale)

    def loss(self, target: Tensor, parameters: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean of the negative log-likelihood, in nats a forecast."""
        location, scale, freedom = parameters.unbind(-1)  # (B, T, H) each
        distribution = StudentT(freedom, location, scale, validate_args=False)
        # (B, T, H)
        density: Tensor = distribution.log_prob(target)  # type: ignore[no-untyped-call]  # PyTorch gives it no types
        return -(density * weight).sum() / weight.sum().clamp_min(1e-12)

    @torch.no_grad()
    def start_at(self, quantiles: Tensor) -> None:
        """Let the untrained network answer with about these quantiles: their median and quartiles, and heavy tails.

        Args:
            quantiles: Empirical quantiles of the scaled train targets, (H, Q), increasing in Q.
        """
        low, high = _QUARTILES
        scale = (quantiles[:, high] - quantiles[:, low]) / (2 * float(stdtrit(_START_FREEDOM, LEVELS[high])))  # (H)
        freedom = torch.full_like(scale, _START_FREEDOM - _LEAST_FREEDOM)
        parts = [quantiles[:, _MEDIAN], _before_softplus(scale - _LEAST_SCALE), _before_softplus(freedom)]
        self.base.copy_(torch.stack(parts, dim=-1))
        _start_small(self.linear)


def _before_softplus(values: Tensor) -> Tensor:
    """Its inverse; what is not positive, or nearly nought, counts as a small number."""
    return torch.log(torch.expm1(values.clamp_min(_LEAST_STEP)))


def _start_small(linear: nn.Linear) -> None:
    linear.weight.mul_(0.1)
    linear.bias.zero_()


HEADS: Final[dict[HeadName, type[QuantileHead] | type[StudentTHead]]] = {
    "quantiles": QuantileHead,
    "student_t": StudentTHead,
}


def pinball_loss(target: Tensor, quantiles: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean quantile loss over the levels.

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
