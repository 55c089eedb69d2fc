"""What clean candles must satisfy, as Great Expectations suites; the only place that imports Great Expectations.

Suites are code, run by a checkpoint on numpy-backed pandas frames, with Data Docs. Missing bars are null, and no rule
about a value concerns them; how many there may be is a rule of its own.
"""

import logging
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gatecast.config import ValidateConfig
from gatecast.market.candles import BAR, CLOSE, HIGH, LOW, MISSING, OPEN, PRICES, SYMBOL, TS, VALUES, VOLUME, iso

_LOG_RETURN = "log_return"
_MAX_ROWS = 5  # shown of those that break a rule


@dataclass(frozen=True)
class Rule:
    """One expectation and what a person calls it.

    Attributes:
        name: What has to hold.
        kind: Class name of the expectation.
        arguments: Its arguments.
        key: Key of the configuration that holds its limit; empty where the rule is not a matter of degree.
    """

    name: str
    kind: str
    arguments: dict[str, Any]
    key: str = ""


@dataclass(frozen=True)
class Finding:
    """How one rule came out.

    Attributes:
        name: What has to hold.
        expectation: Type of the expectation.
        success: Whether it holds.
        key: Key of the configuration that holds its limit.
        limit: The limit.
        n_unexpected: Rows that break it.
        rows: The first of them: symbol, ts (of a bar) and value.
    """

    name: str
    expectation: str
    success: bool
    key: str
    limit: Any
    n_unexpected: int
    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        rows = ", ".join(" ".join(str(value) for value in row.values()) for row in self.rows)
        bound = f", limit {self.limit} (validate.{self.key})" if self.key else ""
        return f"{self.name} does not hold for {self.n_unexpected} row(s): {rows}{bound}"


def check_candles(
    candles: pl.DataFrame, counts: Mapping[str, Mapping[str, Any]], limits: ValidateConfig, data_docs: Path
) -> list[Finding]:
    """Validate clean candles.

    Args:
        candles: The clean grid of all markets.
        counts: Row counts of each market, as `clean` wrote them.
        limits: Thresholds.
        data_docs: Folder for the Data Docs, replaced as a whole.

    Returns:
        A finding a rule, in the order of the rules.
    """
    moves = candles.with_columns(pl.col(CLOSE).log().diff().over(SYMBOL).alias(_LOG_RETURN))
    markets = pl.DataFrame([_market_row(candles, symbol, each) for symbol, each in counts.items()])
    suites = {
        "candles": (moves, _candle_rules(sorted(counts), limits)),
        "markets": (markets, _market_rules(limits)),
    }
    results = _run_checkpoint(suites, data_docs)
    return [
        _finding(rule, results[name, number], frame)
        for name, (frame, rules) in suites.items()
        for number, rule in enumerate(rules)
    ]


def _market_row(candles: pl.DataFrame, symbol: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    own = candles.filter(pl.col(SYMBOL) == symbol)
    return {
        SYMBOL: symbol,
        "n_bars": len(own),
        "missing_share": round(float(own[MISSING].to_numpy().mean()), 6) if len(own) else 1.0,
        "quarantined_share": round(counts["quarantined"] / counts["raw"], 6),
        "longest_hole": counts["longest_hole"],
        "longest_standstill": _longest_standstill(own),
        "unaccounted": counts["raw"] - counts["clean"] - counts["quarantined"] - counts["duplicates"],
    }


def _longest_standstill(candles: pl.DataFrame) -> int:
    """Bars in the longest run whose close is that of the bar before: what others fill holes with."""
    closes = candles[CLOSE].drop_nulls()
    runs = (closes.diff() == 0).rle().struct.unnest().filter(pl.col("value"))
    return int(runs["len"].max() or 0)  # type: ignore[arg-type]  # a count, typed as any literal


def _candle_rules(symbols: list[str], limits: ValidateConfig) -> list[Rule]:
    types = {SYMBOL: "str", TS: "Timestamp", BAR: "int64", MISSING: "bool"}
    types |= dict.fromkeys(VALUES, "float64")
    present = {"or_equal": True, "ignore_row_if": "either_value_is_missing"}
    pairs = ((HIGH, OPEN), (HIGH, CLOSE), (OPEN, LOW), (CLOSE, LOW))
    between, largest = "ExpectColumnValuesToBeBetween", limits.max_abs_log_return
    move = {"column": _LOG_RETURN, "min_value": -largest, "max_value": largest}
    return [
        *(
            Rule(f"{name} is of type {kind}", "ExpectColumnValuesToBeOfType", {"column": name, "type_": kind})
            for name, kind in types.items()
        ),
        *(
            Rule(f"{name} is never empty", "ExpectColumnValuesToNotBeNull", {"column": name})
            for name in (SYMBOL, TS, BAR, MISSING)
        ),
        Rule("a market has one row a bar", "ExpectCompoundColumnsToBeUnique", {"column_list": [SYMBOL, TS]}),
        *(
            Rule(
                f"open times of {symbol} increase",
                "ExpectColumnValuesToBeIncreasing",
                {"column": TS, SYMBOL: symbol, "strictly": True},
            )
            for symbol in symbols
        ),
        *(
            Rule(f"{name} is positive", between, {"column": name, "min_value": 0, "strict_min": True})
            for name in PRICES
        ),
        Rule("volume is not negative", between, {"column": VOLUME, "min_value": 0}),
        *(
            Rule(
                f"{above} is not below {below}",
                "ExpectColumnPairValuesAToBeGreaterThanB",
                {"column_A": above, "column_B": below, **present},
            )
            for above, below in pairs
        ),
        Rule("the move of one bar is believable", between, move, key="max_abs_log_return"),
    ]


def _market_rules(limits: ValidateConfig) -> list[Rule]:
    between = "ExpectColumnValuesToBeBetween"
    return [
        Rule(words, between, {"column": column, "max_value": getattr(limits, key)}, key=key)
        for words, column, key in (
            ("share of missing bars", "missing_share", "max_missing_share"),
            ("share of quarantined rows", "quarantined_share", "max_quarantined_share"),
            ("longest hole", "longest_hole", "max_hole_bars"),
            ("longest run of one and the same close", "longest_standstill", "max_hole_bars"),
        )
    ] + [
        Rule("number of bars", between, {"column": "n_bars", "min_value": limits.min_bars}, key="min_bars"),
        Rule("every raw row is accounted for", between, {"column": "unaccounted", "min_value": 0, "max_value": 0}),
    ]


def _run_checkpoint(
    suites: Mapping[str, tuple[pl.DataFrame, list[Rule]]], data_docs: Path
) -> dict[tuple[str, int], Any]:
    """Results by suite and number of the rule, as Great Expectations puts them into JSON."""
    warnings.filterwarnings("ignore", module="great_expectations")
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    _add_data_docs(context, data_docs)
    source = context.data_sources.add_pandas("clean")
    definitions = []
    for name, (_, rules) in suites.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = gx.ExpectationSuite(name=name, expectations=[_expectation(rule, n) for n, rule in enumerate(rules)])
        definition = gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add(suite))
        definitions.append(context.validation_definitions.add(definition))
    results: dict[tuple[str, int], Any] = {}
    for definition in definitions:  # a checkpoint takes one frame at a time
        checkpoint = gx.Checkpoint(
            name=definition.name,
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="data_docs")],
            result_format={"result_format": "COMPLETE", "partial_unexpected_count": _MAX_ROWS},
        )
        frame = suites[definition.name][0].to_pandas()  # numpy-backed: Arrow-backed frames take 13 times as long
        found = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
        for run in found.run_results.values():
            for each in run.results:
                content: Any = each.to_json_dict()
                results[definition.name, content["expectation_config"]["meta"]["rule"]] = content
    return results


def _add_data_docs(context: Any, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name in list(context.get_site_names()):
        context.delete_data_docs_site(name)
    context.add_data_docs_site(
        "local",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )


def _expectation(rule: Rule, number: int) -> Any:
    import great_expectations as gx
    from great_expectations.expectations.row_conditions import Column

    arguments = {name: value for name, value in rule.arguments.items() if name != SYMBOL}
    if SYMBOL in rule.arguments:  # this expectation is about the whole column unless a condition picks a market
        arguments["row_condition"] = Column(SYMBOL) == rule.arguments[SYMBOL]
    return getattr(gx.expectations, rule.kind)(**arguments, meta={"rule": number}, notes=rule.name)


def _finding(rule: Rule, content: Any, frame: pl.DataFrame) -> Finding:
    found = content["result"]
    raised = bool(content.get("exception_info", {}).get("raised_exception"))
    limits = [rule.arguments.get(name) for name in ("max_value", "min_value")]
    return Finding(
        name=rule.name,
        expectation=content["expectation_config"]["type"],
        success=bool(content["success"]) and not raised,
        key=rule.key,
        limit=next((limit for limit in limits if limit is not None), None) if rule.key else None,
        n_unexpected=int(found.get("unexpected_count", 0)),
        rows=_rows(rule, found.get("unexpected_index_list") or [], frame),
    )


def _rows(rule: Rule, index: list[int], frame: pl.DataFrame) -> list[dict[str, Any]]:
    columns = [rule.arguments[name] for name in ("column", "column_A", "column_B") if name in rule.arguments]
    chosen = frame[sorted(index)[:_MAX_ROWS]]
    keys = [name for name in (SYMBOL, TS) if name in frame.columns]
    shown = chosen.select(*dict.fromkeys([*keys, *columns])).to_dicts()
    return [{name: iso(value) if name == TS else value for name, value in row.items()} for row in shown]


def report(findings: list[Finding], input_sha256: str) -> dict[str, Any]:
    """The findings as they stand in validation.json: no clock, no run id, so that equal candles give equal bytes."""
    success = all(finding.success for finding in findings)
    return {"success": success, "input_sha256": input_sha256, "expectations": [asdict(finding) for finding in findings]}
