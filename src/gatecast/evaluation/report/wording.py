"""The words of the report: the decision of the gate, and the plain sentence below each table."""

import math
from typing import Final

import numpy as np
import polars as pl

from gatecast.evaluation.notation import (
    bars_ahead,
    count,
    finite,
    listed,
    model_name,
    number,
    percent,
    price_text,
    signed,
    when,
    words,
)
from gatecast.evaluation.report.contents import Json, ReportContents
from gatecast.evaluation.report.merit import fold_skill, headline, scores_of, shares_among_levels
from gatecast.model.predictions import LEVELS, LSTM

RANGES: Final = (50, 80, 90)
_BROKEN: Final = {"fail": "Not met", "warn": "Beyond what goes without a warning"}


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
        "folds": _folds_sentence(contents.metrics),
        "levels": _levels_sentence(contents.metrics),
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
    return f"Not passed: {listed(failed)}." if failed else f"All {len(checks)} checks passed."


def _folds_sentence(metrics: Json) -> str:
    skill = [value for value in fold_skill(metrics, headline(metrics)) if not math.isnan(value)]
    n_ahead = sum(value > 0 for value in skill)
    where = bars_ahead(headline(metrics))
    return f"{where} the LSTM has a lower loss than the best baseline in {n_ahead} of {len(skill)} folds."


def markets_sentence(rows: list[Json], horizon: int, best: str) -> str:
    """In how many markets the LSTM is ahead of the best baseline of all.

    Args:
        rows: symbol and skill of each market, from the highest skill; what is not known comes last.
        horizon: Bars ahead.
        best: The baseline that loses least over all markets.
    """
    known = [row for row in rows if not math.isnan(row["skill"])]
    if not known:
        return f"{bars_ahead(horizon)} no market has figures."
    n_ahead = sum(row["skill"] > 0 for row in known)
    high, low = known[0], known[-1]
    ahead = f"a lower loss than {model_name(best)} in {n_ahead} of {len(known)} markets"
    span = f"from {signed(high['skill'])} in {high['symbol']} to {signed(low['skill'])} in {low['symbol']}"
    return f"{bars_ahead(horizon)} the LSTM has {ahead}, {span}. No market is tested by itself."


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
    together = (
        f"Over all folds together the LSTM is never more than {100 * gap:.1f} points off the nominal coverage; "
        f"the largest gap is that of the {nominal} % range {bars_ahead(horizon)}."
    )
    single = [
        (abs(achieved - int(nominal) / 100), int(nominal), int(horizon), fold + 1)
        for horizon, ranges in metrics.get("coverage_by_fold", {}).items()
        for nominal, by_fold in ranges.items()
        for fold, achieved in enumerate(by_fold)
    ]
    if not single:
        return together
    gap, nominal, horizon, fold = max(single)
    return f"{together} In a single fold it is up to {100 * gap:.1f}: {nominal} % {bars_ahead(horizon)}, fold {fold}."


def _levels_sentence(metrics: Json) -> str:
    where = bars_ahead(headline(metrics))
    shares = shares_among_levels(metrics, LSTM, headline(metrics))
    if len(shares) != len(LEVELS) + 1 or math.isnan(sum(shares)):
        return f"Where outcomes {where} fell among the levels is not known."
    low, high = percent(shares[0]), percent(shares[-1])
    first, last = percent(LEVELS[0], 0), percent(1 - LEVELS[-1], 0)
    below = np.cumsum(shares)[:-1] - np.array(LEVELS)
    worst = int(np.argmax(np.abs(below)))
    return (
        f"{where} {low} of the outcomes fell below the lowest level of the LSTM, where {first} should, and {high} above"
        f" its highest, where {last} should. Of all levels that of {percent(LEVELS[worst], 0)} is furthest off:"
        f" {percent(LEVELS[worst] + below[worst])} fell below it."
    )


def forecast_sentence(rows: list[Json]) -> str:
    """What the furthest horizon of a forecast says."""
    low, high = (price_text(finite(rows[-1].get(level))) for level in ("q0.05", "q0.95"))
    due = when(rows[-1]["target_at"])
    return f"By this forecast the close known at {due} lies between {low} and {high} with a probability of 90 %."


def forecast_caveats(forecast: Json) -> list[str]:
    """What keeps a forecast from being a proven one of the future: its age, and horizons that no gate has judged."""
    found, age, proven = [], forecast.get("age_bars", 0), forecast.get("proven_horizons", ())
    if age > 1:
        found.append(f"A replay of the past, not a live forecast: it begins {count(age)} bars before it was made.")
    others = sorted({row["horizon"] for row in forecast["quantiles"]} - set(proven))
    if proven and others:
        where = " and ".join(bars_ahead(horizon) for horizon in proven)
        found.append(f"Proven {where} alone; not judged: {listed([str(each) for each in others])}.")
    return found


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
    parts = [f"{words}: {listed(broken[level])}." for level, words in _BROKEN.items() if broken[level]]
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
    return listed(proof["changes"]) if proof.get("changes") else "changed"


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
    folds = f"{count(proof['n_folds'])} fold{'' if proof['n_folds'] == 1 else 's'}"
    done = f"In {folds} what came after was {_changed(proof)} at {n_cuts} instants; "
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
