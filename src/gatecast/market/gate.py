"""The gate after validation: whoever reads the clean candles asks it, and it does not need Great Expectations."""

import json
from pathlib import Path

import polars as pl

from gatecast.config import ValidateConfig
from gatecast.errors import GateRefused
from gatecast.market.candles import CLOSE, MISSING, TS, Market, iso
from gatecast.workspace import file_sha256


def require_validated(report: Path, candles: Path) -> None:
    """Let candles pass only if they are the ones that validation found good.

    Args:
        report: validation.json.
        candles: The file that is about to be read.

    Raises:
        GateRefused: No validation, a failed one, or one of other candles.
    """
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        success, digest = found["success"], found["input_sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise GateRefused(
            f"{report.name} is absent or damaged, so the candles are not validated: run `gatecast validate`"
        ) from None
    if not success:
        raise GateRefused(
            f"the candles failed validation ({report.name} says what): mend them, or the limits in `validate`"
        )
    if digest != file_sha256(candles):
        raise GateRefused(f"{report.name} is about other candles than those in {candles.name}: run `gatecast validate`")


def require_believable(grid: pl.DataFrame, market: Market, limits: ValidateConfig) -> None:
    """Hold candles that came after the last validation against its limits, before a forecast is issued from them.

    Args:
        grid: Newest bars of one market, as `clean_grid` gives them.
        market: Whose bars.
        limits: Thresholds of `validate`.

    Raises:
        GateRefused: A move that is not believable, or too many missing bars.
    """
    moves = grid.filter(~pl.col(MISSING)).select(TS, move=pl.col(CLOSE).log().diff())
    wild = moves.filter(pl.col("move").abs() > limits.max_abs_log_return)
    if not wild.is_empty():
        raise GateRefused(
            f"no forecast of {market}: it moves by {wild['move'][0]:+.3f} in log at {iso(wild[TS][0])}, limit"
            f" {limits.max_abs_log_return} (validate.max_abs_log_return)"
        )
    share = float(grid[MISSING].to_numpy().mean())
    if share > limits.max_missing_share:
        raise GateRefused(
            f"no forecast of {market}: {share:.1%} of its last {len(grid)} bars are missing, limit"
            f" {limits.max_missing_share:.1%} (validate.max_missing_share)"
        )
