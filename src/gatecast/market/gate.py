"""The gate at validation and after it: whoever reads the clean candles asks it. It does not need Great Expectations."""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from gatecast.config import ValidateConfig
from gatecast.errors import GateRefused
from gatecast.market.candles import Market, iso
from gatecast.market.expectations import Finding, failures_of
from gatecast.market.facts import LOG_RANGE, LOG_RETURN, market_facts, with_moves
from gatecast.workspace import file_sha256

_LIVE = {  # what can be judged of a few thousand bars, worst first
    LOG_RETURN: "the largest move",
    LOG_RANGE: "the widest range",
    "missing_share": "the missing share",
    "hole_bars": "the longest hole",
    "standstill_bars": "the longest run of one close",
    "zero_volume_bars": "the longest run without volume",
}


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


def require_expected(findings: Sequence[Finding], step: str, data_docs: str) -> None:
    """Let data pass only if no expectation on it has failed.

    Args:
        findings: How each expectation came out.
        step: Which step asks.
        data_docs: Where a person reads more.

    Raises:
        GateRefused: One has failed; the message names it, the rows and the key of its limit.
    """
    if failed := failures_of(findings):
        more = f"; {len(failed) - 1} more expectation(s) failed" if len(failed) > 1 else ""
        raise GateRefused(f"{step}: {failed[0]}{more}; see {data_docs}")


def require_believable(grid: pl.DataFrame, market: Market, limits: ValidateConfig) -> None:
    """Hold candles that came after the last validation against its limits, before a forecast is issued from them.

    Args:
        grid: Newest bars of one market, as `clean_grid` gives them.
        market: Whose bars.
        limits: Thresholds of `validate`.

    Raises:
        GateRefused: What would fail validation: a move or range that is not believable, holes, standstill.
    """
    facts = market_facts(with_moves(grid), {}).row(0, named=True)
    for name, words in _LIVE.items():
        limit: float | None = getattr(limits, name).fail
        if limit is not None and (value := facts[name]) is not None and value > limit:
            at = f" at {iso(facts[f'{name}_at'])}" if f"{name}_at" in facts else ""
            raise GateRefused(
                f"no forecast of {market}: {words} of its last {len(grid)} bars is {value:.4g}{at}, limit {limit:g}"
                f" (validate.{name}.fail)"
            )
