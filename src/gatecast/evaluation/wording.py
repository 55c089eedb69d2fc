"""The words of the report: numbers as people read them, and the plain sentence below each table."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import polars as pl

from gatecast.evaluation.contents import Json, ReportContents
from gatecast.evaluation.figures import DASH, bars_ahead, finite, fold_skill, price_text
from gatecast.model.predictions import LSTM

RANGES: Final = (50, 80, 90)
_SMALL_P: Final = 0.0001
_BROKEN: Final = {"fail": "Not met", "warn": "Beyond what goes without a warning"}


def number(value: object, decimals: int = 5) -> str:
    """A number with so many decimals; a dash where there is none."""
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:.{decimals}f}"


def percent(value: object, decimals: int = 1) -> str:
    """A share in percent."""
    number = finite(value)
    return DASH if math.isnan(number) else f"{100 * number:.{decimals}f}\N{NO-BREAK SPACE}%"


def signed(value: object, decimals: int = 2) -> str:
    """A share in percent with its sign."""
    number = finite(value)
    sign = "" if round(100 * number, decimals) == 0 else "+" if number > 0 else "\N{MINUS SIGN}"
    return DASH if math.isnan(number) else sign + percent(abs(number), decimals)


def count(value: object) -> str:
    """A whole number with thousands set apart."""
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:,.0f}"


def p_value(value: object) -> str:
    """A p-value, the smallest ones as a bound."""
    number = finite(value)
    return DASH if math.isnan(number) else "< 0.0001" if number < _SMALL_P else f"{number:.4f}"


def when(value: str | None) -> str:
    """An ISO instant in UTC, to the minute."""
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if value else DASH


def day(value: str | None) -> str:
    """The day of an ISO instant, UTC."""
    return when(value)[:10]


def words(value: object) -> str:
    """Any observed value or breach on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(each)}" for key, each in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value)) or DASH
    if isinstance(value, bool | str):
        return str(value)
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:.6g}" if isinstance(value, float) else f"{number:,.0f}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def headline(metrics: Json) -> int:
    """The longest horizon that was named beforehand: the one that the verdict is about."""
    return max(map(int, metrics.get("beats_baselines") or metrics["horizons"]))


def scores_of(metrics: Json, horizon: int) -> Json:
    """The challenger's figures at a horizon; empty if it has none."""
    scores: Json = metrics["models"].get(LSTM, {}).get(str(horizon), {})
    return scores


def decision_line(promotion: Json | None) -> str:
    """What the gate decided, in one sentence."""
    if promotion is None:
        return "Not decided yet: `gatecast promote` has not judged this model."
    name, version, champion = (promotion.get(key) for key in ("model_name", "version", "champion_version"))
    if promotion["decision"] == "promoted":
        instead = f", in place of version {champion}" if champion not in (None, version) else ""
        return f"Promoted: version {version} of {name} is now the champion{instead}."
    if promotion["decision"] == "already champion":
        return f"Already champion: version {version or champion} of {name} is this very model, and stays."
    stays = f"version {champion} stays champion." if champion is not None else "there is no champion, and no forecast."
    return f"Refused: this model does not go live; {stays}"


def sentences(contents: ReportContents) -> dict[str, str]:
    """The plain sentence below each table."""
    return {
        "checks": _checks_sentence(contents.promotion),
        "scores": _scores_sentence(contents.metrics),
        "folds": _folds_sentence(contents.metrics),
        "coverage": _coverage_sentence(contents.metrics),
        "quality": _quality_sentence(contents.counts),
        "validation": _validation_sentence(contents.validation),
        "feature_validation": _validation_sentence(contents.feature_validation),
        "leakage": _leakage_sentence(contents.leakage, contents.fold_leakage),
        "search": _search_sentence(contents),
        "provenance": _provenance_sentence(contents.provenance),
    }


def _checks_sentence(promotion: Json | None) -> str:
    checks = promotion["checks"] if promotion else []
    failed = [check["check"] for check in checks if not check["passed"]]
    return f"Not passed: {_listed(failed)}." if failed else f"All {len(checks)} checks passed."


def _scores_sentence(metrics: Json) -> str:
    beaten = metrics.get("beats_baselines", {})
    ahead, behind = (
        [horizon for horizon, beats in beaten.items() if bool(beats) is wanted] for wanted in (True, False)
    )
    unnamed = "" if len(beaten) == len(metrics["horizons"]) else "; only horizons named beforehand are judged"
    if not ahead:
        return f"{_where(behind)} the LSTM does not beat every baseline by more than chance explains{unnamed}."
    rest = f"; {_where(behind)} it does not" if behind else ""
    return f"{_where(ahead)} the LSTM beats every baseline by more than chance explains{rest}{unnamed}."


def _where(horizons: list[str]) -> str:
    return f"{_listed(horizons)} bar{'' if horizons == ['1'] else 's'} ahead"


def _folds_sentence(metrics: Json) -> str:
    skill = [value for value in fold_skill(metrics, headline(metrics)) if not math.isnan(value)]
    n_ahead = sum(value > 0 for value in skill)
    where = bars_ahead(headline(metrics))
    return f"{where} the LSTM has a lower loss than the best baseline in {n_ahead} of {len(skill)} folds."


def _coverage_sentence(metrics: Json) -> str:
    gaps = [
        (abs(achieved - nominal / 100), nominal, horizon)
        for horizon in metrics["horizons"]
        for nominal in RANGES
        if not math.isnan(achieved := finite(scores_of(metrics, horizon).get(f"coverage_{nominal}")))
    ]
    if not gaps:
        return "The coverage of the LSTM is not known."
    gap, nominal, horizon = max(gaps)
    return (
        f"The LSTM is never more than {100 * gap:.1f} points off the nominal coverage; "
        f"the largest gap is that of the {nominal} % range {bars_ahead(horizon)}."
    )


def forecast_sentence(rows: list[Json]) -> str:
    """What the furthest horizon of a forecast says."""
    low, high = (price_text(finite(rows[-1].get(level))) for level in ("q0.05", "q0.95"))
    due = when(rows[-1]["target_at"])
    return f"By this forecast the close known at {due} lies between {low} and {high} with a probability of 90 %."


def _quality_sentence(counts: Json) -> str:
    markets = counts["markets"].values()
    present, missing, removed = (sum(each[key] for each in markets) for key in ("clean", "missing", "quarantined"))
    n_bars = present + missing
    share = percent(missing / n_bars if n_bars else None, 2)
    return f"Of {count(n_bars)} bars {count(missing)} are missing ({share}); {count(removed)} rows are in quarantine."


def _validation_sentence(validation: Json) -> str:
    expectations = validation["expectations"]
    broken = {
        level: [each["name"].rstrip(",") for each in expectations if not each["success"] and each["severity"] == level]
        for level in ("fail", "warn")
    }
    parts = [f"{words}: {_listed(broken[level])}." for level, words in _BROKEN.items() if broken[level]]
    return " ".join(parts) or f"All {len(expectations)} expectations are met."


def leaks(contents: ReportContents) -> list[Json]:
    """Every breach of the proofs: of the features, of their parity and of the folds, which people count from 1."""
    of_folds = [{**breach, "fold": breach["fold"] + 1} for breach in contents.fold_leakage["breaches"]]
    return [*contents.leakage["breaches"], *_parity(contents.leakage).get("breaches", []), *of_folds]


def _parity(leakage: Json) -> Json:
    return leakage.get("parity") or {}


def _leakage_sentence(leakage: Json, fold_leakage: Json) -> str:
    parts = [_features_sentence(leakage), _parity_sentence(_parity(leakage)), _fold_proof_sentence(fold_leakage)]
    return " ".join(parts)


def _changed(proof: Json) -> str:
    return _listed(proof["changes"]) if proof.get("changes") else "changed"


def _features_sentence(leakage: Json) -> str:
    proof = f"The future was {_changed(leakage)} at {count(leakage['n_cuts'])} instants; "
    if breaches := leakage["breaches"]:
        moved = f"{len(breaches)} of {leakage['n_columns']} columns changed what was known before"
        return f"{proof}{moved}, so the figures above cannot be trusted."
    return f"{proof}none of {leakage['n_columns']} columns changed what was known before: no feature sees the future."


def _parity_sentence(parity: Json) -> str:
    if not parity.get("n_bars"):
        return "Whether features built live equal these was not checked."
    proof = f"The features of {count(parity['n_bars'])} bars were built again as they are built live; "
    if breaches := parity.get("breaches"):
        return f"{proof}{len(breaches)} came out otherwise, so that a live forecast is not what was evaluated."
    return f"{proof}all came out the same, to within {words(parity.get('tolerance'))} standard deviations."


def _fold_proof_sentence(proof: Json) -> str:
    n_cuts, n_values = count(proof["n_cuts"]), count(proof["n_values"])
    done = f"In {count(proof['n_folds'])} folds what came after was {_changed(proof)} at {n_cuts} instants; "
    if breaches := proof["breaches"]:
        first = f"{breaches[0]['column']} of the {breaches[0]['what']}"
        return f"{done}{first} changed although it was known before, so the figures above cannot be trusted."
    return f"{done}scalers, train rows and forecasts stayed the same to the last bit ({n_values} values)."


def _search_sentence(contents: ReportContents) -> str:
    n_trials, n_pruned = len(contents.trials), contents.trials.filter(pl.col("state") == "PRUNED").height
    value = number(contents.best.get("value"))
    return f"The best of {n_trials} trials lost {value} relative to the typical move; {n_pruned} were stopped early."


def _provenance_sentence(provenance: Json | None) -> str:
    if provenance is None:
        return "The provenance of this run was not recorded."
    if provenance.get("dirty"):
        return "The working tree held changes that were not committed: the commit alone does not rebuild this run."
    return "The working tree was clean: commit and hashes together name everything that this run was computed from."
