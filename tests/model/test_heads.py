import numpy as np
import pytest
import torch
from scipy import stats

from gatecast.model.heads import QuantileHead, StudentTHead, pinball_loss
from gatecast.model.predictions import LEVELS


@pytest.mark.parametrize("head", [QuantileHead, StudentTHead])
def test_an_untrained_head_answers_near_the_quantiles_it_starts_at(head: type[QuantileHead | StudentTHead]) -> None:
    start = torch.tensor(stats.t.ppf(LEVELS, 4), dtype=torch.float32).repeat(3, 1) * 1.3 + 0.2
    net = head(8, 3)
    net.start_at(start)
    net.linear.weight.data.zero_()
    with torch.no_grad():
        torch.testing.assert_close(net.quantiles(net(torch.randn(1, 4, 8)))[0, 2], start, rtol=1e-3, atol=1e-3)


def test_pinball_loss_is_its_definition() -> None:
    generator = np.random.default_rng(0)
    target, quantiles = generator.standard_normal((2, 3, 2)), np.sort(generator.standard_normal((2, 3, 2, len(LEVELS))))
    weight = generator.integers(0, 2, (2, 3, 2)).astype(float)
    total = 0.0
    for index in np.ndindex(target.shape):
        for level, quantile in zip(LEVELS, quantiles[index], strict=True):
            error = target[index] - quantile
            total += weight[index] * (level * error if error >= 0 else (level - 1) * error) / len(LEVELS)
    loss = pinball_loss(*(torch.tensor(each) for each in (target, quantiles, weight)))
    assert float(loss) == pytest.approx(total / weight.sum())


def test_the_likelihood_and_the_quantiles_of_a_student_t_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    head = StudentTHead(4, 2).double()
    parameters = head(torch.randn(2, 5, 4, generator=generator, dtype=torch.float64))
    location, scale, freedom = (each.detach().numpy() for each in parameters.unbind(-1))
    target = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    weight = torch.ones_like(target)
    weight[0, 3] = 0
    density = stats.t.logpdf(target.numpy(), freedom, location, scale)
    expected = -(density * weight.numpy()).sum() / weight.sum()
    assert head.loss(target, parameters, weight).item() == pytest.approx(float(expected))
    for column, level in enumerate(LEVELS):
        theirs = stats.t.ppf(level, freedom, location, scale)
        np.testing.assert_allclose(head.quantiles(parameters)[..., column].detach().numpy(), theirs, rtol=1e-6)


@pytest.mark.parametrize("head", [QuantileHead, StudentTHead])
def test_each_head_learns_the_quantiles_of_what_it_is_shown(head: type[QuantileHead | StudentTHead]) -> None:
    torch.manual_seed(1)
    target = torch.tensor(stats.t.rvs(5, 0.3, 0.7, size=(1, 4000, 1), random_state=2), dtype=torch.float32)
    net, states = head(1, 1), torch.ones(1, 4000, 1)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(400):
        optimizer.zero_grad()
        net.loss(target, net(states), torch.ones_like(target)).backward()  # type: ignore[no-untyped-call]  # PyTorch's own
        optimizer.step()
    found = net.quantiles(net(states[:, :1]))[0, 0, 0].detach().numpy()
    np.testing.assert_allclose(found, np.quantile(target.numpy(), LEVELS), atol=0.06)
