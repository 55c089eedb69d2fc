"""The gate after validation: whoever reads the clean candles asks it, and it does not need Great Expectations."""

import json
from pathlib import Path

from gatecast.errors import GateRefused
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
