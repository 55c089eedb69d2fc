"""How much the networks lose when a feature no longer belongs to its bar."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy.stats import t as student_t
from torch import Tensor

from gatecast.evaluation.errors.wording import ALPHA
from gatecast.evaluation.metrics import pinball
from gatecast.evaluation.notation import listed, signed
from gatecast.evaluation.splits import Fold
from gatecast.evaluation.statistics import holm
from gatecast.market.candles import BAR, SYMBOL
from gatecast.model.fitted import FittedModel
from gatecast.model.predictions import FOLD, HORIZON, Array
from gatecast.model.threads import one_thread
from gatecast.model.windows import Panel

Json = dict[str, Any]
Flags = npt.NDArray[np.bool_]

FEATURE: Final = "feature"
_SCHEMA: Final = {
    FOLD: pl.Int64(),
    FEATURE: pl.String(),
    HORIZON: pl.Int64(),
    "n": pl.Int64(),
    "loss": pl.Float64(),
    "shifted_loss": pl.Float64(),
}
_SUFFIX: Final = re.compile(r"_(\d+|sine|cosine)$")
_N_SHIFTS: Final = 4  # a week of hours fits itself again after 168 bars, so that one shift says little of a calendar
_BATCH_BLOCKS: Final = 256  # at once, and at most of a fold: of more markets a random sample says as much
_CONFIDENCE: Final = 0.95
_MOST_NAMED: Final = 3


@dataclass(frozen=True)
class Shift:
    """Some channels of a panel, read elsewhere in time.

    Attributes:
        channels: Their numbers, (C,).
        source: The place that each place is read from, (T,).
    """

    channels: Tensor
    source: Tensor


def feature_groups(features: Sequence[str]) -> dict[str, list[int]]:
    """Places of the features of each group: those that differ in their span, or are sine and cosine of one thing."""
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(features):
        groups.setdefault(_SUFFIX.sub("", name), []).append(place)
    return groups


@one_thread()
@torch.inference_mode()
def permutation_importance(
    rows: pl.DataFrame, fold: Fold, fitted: FittedModel, horizons: Sequence[int], seed: int
) -> pl.DataFrame:
    """Loss of the networks on the test span as it is, and with each group of features shifted in time.

    Within a market the group is moved round in a circle by a random number of bars, a block or more, and so up to four
    times: its values keep their order and say nothing any more of what comes. The volatility that scales the target
    stays, as does the mask of missing values. What two groups say alike neither of them is missed for.

    Args:
        rows: All feature rows with targets.
        fold: The test span.
        fitted: The networks, trained on the train span.
        horizons: Bars ahead, among those of the networks.
        seed: Of the offsets.

    Returns:
        fold, feature (a group), horizon, n, loss and shifted_loss (mean pinball loss of n forecasts, in log return, the
        latter over all shifts); no row for a horizon without a known target.

    Source:
        Breiman (2001), Random Forests, Machine Learning 45(1); shifted, since the values of one feature are no more
        exchangeable than the bars are.
    """
    context = fold.test.preceded_by(fitted.windows.n_bars).rows(rows).filter(pl.col(SYMBOL).is_in(fitted.symbols))
    panel, groups = fitted.panel(context), feature_groups(fitted.features)
    tested = _tested(panel, context, fold.test.start)
    generator = np.random.default_rng([seed, fold.number])
    blocks, places = _tested_blocks(panel, tested, generator), _market_places(panel, context)
    n_shifts = max(min(_N_SHIFTS, _BATCH_BLOCKS // (2 * len(blocks) + 1)), 1)  # every market has a shift of its own
    shifts = [
        Shift(torch.tensor(group), _shifted(panel, places, number / n_shifts, 1 / n_shifts, generator))
        for group in groups.values()
        for number in range(n_shifts)
    ]
    unmoved = Shift(torch.tensor([], dtype=torch.long), torch.arange(len(panel.rows)))
    totals, counts = _losses(panel, fitted, [unmoved, *shifts], blocks, tested)  # (1 + G * S, H), (H)
    moved = totals[1:].reshape(len(groups), n_shifts, -1).mean(axis=1)  # (G, H)
    columns = {horizon: fitted.horizons.index(horizon) for horizon in horizons}
    records = [
        (fold.number, name, horizon, int(n), float(totals[0, column] / n), float(moved[number, column] / n))
        for number, name in enumerate(groups)
        for horizon, column in columns.items()
        if (n := counts[column])
    ]
    return pl.DataFrame(records, schema=_SCHEMA, orient="row")


def importance_rows(importance: pl.DataFrame | None) -> Json:
    """What the features are worth at one horizon, the most needed first, as it stands in error_analysis.json.

    Args:
        importance: From `permutation_importance`, of one horizon and one or more folds; None where it was not measured.

    Returns:
        rows: feature, loss_increase (mean over the folds of the share by which the loss rises), low and high (its 95 %
        t-interval over the folds) and p_value (that it does not rise, corrected for the number of features), None with
        one fold; and a sentence.
    """
    if importance is None or importance.is_empty():
        return {"rows": [], "sentence": "What each feature is worth was not measured."}
    parts = importance.with_columns((pl.col("shifted_loss") / pl.col("loss") - 1).alias("increase"))
    grouped = parts.partition_by(FEATURE, as_dict=True, maintain_order=True).items()
    rows = [_row(str(name), part["increase"].to_numpy()) for (name,), part in grouped]
    if importance[FOLD].n_unique() > 1:
        for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row["p_value"] = p_value
    rows.sort(key=lambda row: -row["loss_increase"])
    return {"rows": rows, "sentence": _sentence(rows, importance[FOLD].n_unique())}


def _row(feature: str, increases: Array) -> Json:
    n, mean = len(increases), float(increases.mean())
    if n == 1:
        return {"feature": feature, "loss_increase": mean, "low": None, "high": None, "p_value": None}
    error = float(increases.std(ddof=1) / np.sqrt(n))
    reach = float(student_t.ppf((1 + _CONFIDENCE) / 2, n - 1)) * error
    p_value = float(student_t.sf(mean / error, n - 1)) if error > 0 else float(mean <= 0)
    return {"feature": feature, "loss_increase": mean, "low": mean - reach, "high": mean + reach, "p_value": p_value}


def _sentence(rows: Sequence[Json], n_folds: int) -> str:
    if n_folds == 1:
        first = rows[0]
        rise = f"{first['feature']} is shifted in time, by {signed(first['loss_increase'])}"
        return f"The loss rises most where {rise}; one fold cannot tell how much of it is chance."
    needed = [row for row in rows if row["p_value"] <= ALPHA]
    if not needed:
        return f"Over {n_folds} folds no feature, shifted in time, raises the loss by more than chance explains."
    names = [f"{row['feature']} ({signed(row['loss_increase'])})" for row in needed[:_MOST_NAMED]]
    if len(needed) > _MOST_NAMED:
        names.append(f"{len(needed) - _MOST_NAMED} more")
    raises = "raises" if len(needed) == 1 else "raise"
    found = f"Shifted in time, {listed(names)} {raises} the loss by more than chance explains"
    idle = [row["feature"] for row in rows if row not in needed]
    others = idle[0] if len(idle) == 1 else f"the other {len(idle)}"
    rest = f"; for {others} no rise can be told from chance over {n_folds} folds" if idle else ""
    return f"{found}{rest}."


def _tested(panel: Panel, context: pl.DataFrame, start: int) -> Flags:
    """Which places of the panel are bars of the test span, (T,)."""
    rows = panel.rows.numpy()
    tested: Flags = (context[BAR].to_numpy() >= start)[rows] & (rows >= 0)
    return tested


def _tested_blocks(panel: Panel, tested: Flags, generator: np.random.Generator) -> Tensor:
    """Numbers of the blocks that forecast a bar of the test span, (N,)."""
    inside = panel.cut(torch.from_numpy(tested), panel.starts)[:, panel.windows.burn_in :].any(1)
    blocks = np.flatnonzero(inside.numpy())
    if len(blocks) > _BATCH_BLOCKS:
        blocks = np.sort(generator.choice(blocks, _BATCH_BLOCKS, replace=False))
    return torch.from_numpy(blocks)


def _market_places(panel: Panel, context: pl.DataFrame) -> list[Tensor]:
    """Places of the bars of each market in the panel, in order."""
    owners = context[SYMBOL].rank("dense").to_numpy()[panel.rows.numpy()]
    owners = torch.from_numpy(np.where(panel.rows.numpy() >= 0, owners, 0).astype(np.int64))
    return [torch.nonzero(owners == owner)[:, 0] for owner in torch.unique(owners[owners > 0])]


def _shifted(
    panel: Panel, places: Sequence[Tensor], start: float, width: float, generator: np.random.Generator
) -> Tensor:
    """Where each place is read from, (T,): each market moved round by a random share of its bars, from `start` up."""
    source = torch.arange(len(panel.rows))
    for own in places:
        least = min(panel.windows.n_bars, len(own) // 2)
        share = start + width * generator.random()
        source[own] = own.roll(least + int(share * (len(own) + 1 - 2 * least)))
    return source


def _losses(
    panel: Panel, fitted: FittedModel, shifts: Sequence[Shift], blocks: Tensor, tested: Flags
) -> tuple[Array, Array]:
    """Sums of the pinball loss of each shift and horizon, (G, H), and how many forecasts they are of, (H)."""
    burn_in = panel.windows.burn_in
    scored = torch.from_numpy(tested)[:, None] & (panel.known > 0)
    totals, counts = np.zeros((len(shifts), len(fitted.horizons))), np.zeros(len(fitted.horizons))
    for numbers, places, quantiles in _said(panel, fitted, shifts, blocks):
        here = places[:, burn_in:]
        for column in range(len(fitted.horizons)):
            known = scored[here, column].numpy()  # (B, stride)
            scale = panel.scale[here, column].double().numpy()[known]
            target = panel.targets[here, column].double().numpy()[known]
            loss = np.zeros(known.shape)
            loss[known] = scale * pinball(target, quantiles[:, :, column][known])
            totals[:, column] += np.bincount(numbers, loss.sum(axis=1), len(shifts))
            counts[column] += known[numbers == 0].sum()
    return totals, counts


def _said(
    panel: Panel, fitted: FittedModel, shifts: Sequence[Shift], blocks: Tensor
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, Array]]:
    """Batch by batch the shift of each block, (B,), its places, (B, L), and scaled quantiles, (B, stride, H, Q)."""
    every = torch.cartesian_prod(torch.arange(len(shifts)), blocks)  # (G * N, 2)
    for first in range(0, len(every), _BATCH_BLOCKS):
        numbers, chosen = every[first : first + _BATCH_BLOCKS].unbind(1)
        places = panel.starts[chosen][:, None] + torch.arange(panel.windows.n_bars)
        inputs = panel.inputs[places]  # (B, L, F)
        for number in torch.unique(numbers).tolist():
            shift, own = shifts[number], numbers == number
            moved = inputs[own]
            moved[..., shift.channels] = panel.inputs[shift.source[places[own]]][..., shift.channels]
            inputs[own] = moved
        outputs = [network(inputs, panel.markets[chosen])[:, panel.windows.burn_in :] for network in fitted.networks]
        scaled = torch.stack(outputs).mean(0).double().numpy()
        yield numbers.numpy(), places, np.sort(scaled + np.array(fitted.offsets), axis=-1)
