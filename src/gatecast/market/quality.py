"""Runs the suites as one Great Expectations checkpoint, with Data Docs; the only place that imports the library."""

import importlib
import logging
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from gatecast.market.candles import TS_TYPE, iso
from gatecast.market.data_docs import write_data_docs
from gatecast.market.expectations import WARN, Finding, Rule, Suite

_MAX_ROWS = 5  # shown of those that break a rule
_PANDAS_FLOATS = (pl.Float64, pl.Float32)


def load() -> Any:
    """The library, quietly; importing it takes seconds, and a thread beside polars' work saved none of them."""
    warnings.filterwarnings("ignore", module="great_expectations")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return importlib.import_module("great_expectations")


def check(suites: Sequence[Suite], data_docs: Path | None, title: str) -> list[Finding]:
    """Judge every rule of the suites, in one checkpoint.

    Args:
        suites: Rules and the tables that they are about.
        data_docs: Folder for the Data Docs, replaced as a whole; they open without a network. None for none.
        title: Of the Data Docs.

    Returns:
        A finding a rule, in the order of the rules.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = _run_checkpoint(suites, Path(folder) if data_docs else None, title)
        found = {
            suite.name: [_finding(rule, results[suite.name, n], suite) for n, rule in enumerate(suite.rules)]
            for suite in suites
        }
        if data_docs:
            write_data_docs(data_docs, Path(folder), title, found)
    return [finding for findings in found.values() for finding in findings]


def _run_checkpoint(suites: Sequence[Suite], pages: Path | None, title: str) -> dict[tuple[str, int], Any]:
    """Results by suite and number of the rule, as Great Expectations puts them into JSON."""
    gx = load()
    context = _context(pages, title)
    source = context.data_sources.add_pandas(title)
    type(source).execution_engine_override = _lean_engine()
    frames = {suite.name: _to_pandas(suite.checked()) for suite in suites}
    framed = _framed_definition(frames)
    definitions = []
    for suite in suites:
        batch = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("all")
        expectations = [_expectation(gx, rule, number) for number, rule in enumerate(suite.rules)]
        rules = context.suites.add(gx.ExpectationSuite(name=suite.name, expectations=expectations))
        definitions.append(context.validation_definitions.add(framed(name=suite.name, data=batch, suite=rules)))
    # not added to the context before it runs, which would replace the definitions by such as know one frame for all
    checkpoint = gx.Checkpoint(
        name=title,
        validation_definitions=definitions,
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": _MAX_ROWS},
    )
    results = {}
    for identifier, run in checkpoint.run().run_results.items():
        for each in run.results:
            content: Any = each.to_json_dict()
            number = content["expectation_config"]["meta"]["rule"]
            results[identifier.expectation_suite_identifier.name, number] = content
    if pages:
        context.build_data_docs()  # as an action of the checkpoint it would begin anew with every suite
    return results


def _framed_definition(frames: Mapping[str, Any]) -> Any:
    """A validation definition that brings its own frame: a checkpoint would hand one frame to all of them."""
    gx = load()

    class FramedDefinition(gx.ValidationDefinition):  # type: ignore[name-defined,misc]  # the library has no types
        def run(self, *, batch_parameters: Any = None, **rest: Any) -> Any:
            del batch_parameters
            return super().run(batch_parameters={"dataframe": frames[self.name]}, **rest)

    return FramedDefinition


def _lean_engine() -> Any:
    """The library's engine without what costs most on many rows: every rule copied all columns, used or not.

    It is told apart by the name of its class, under which the library looks up its metrics.
    """
    from great_expectations.core.batch import BatchMarkers
    from great_expectations.execution_engine.pandas_batch_data import PandasBatchData
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine as Base

    class PandasExecutionEngine(Base):
        def get_domain_records(self, domain_kwargs: dict[str, Any]) -> Any:
            records = super().get_domain_records(domain_kwargs)
            used = [domain_kwargs[name] for name in ("column", "column_A", "column_B") if name in domain_kwargs]
            used += domain_kwargs.get("column_list", [])
            return records[used] if used else records

        def get_batch_data_and_markers(self, batch_spec: Any) -> tuple[Any, Any]:
            # no fingerprint, 1.6 s on 5M rows: the report has the hash of the file
            data = PandasBatchData(execution_engine=self, dataframe=batch_spec.batch_data)
            batch_spec.batch_data = "PandasDataFrame"  # it is written out into the results
            return data, BatchMarkers({"ge_load_time": ""})

    return PandasExecutionEngine


def _context(pages: Path | None, title: str) -> Any:
    gx = load()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name in list(context.get_site_names()):
        context.delete_data_docs_site(name)
    if pages:
        site = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "site_section_builders": {"expectations": "None"},  # the pages of the results say what is expected
        }
        context.add_data_docs_site(title, site)
    return context


def _to_pandas(frame: pl.DataFrame) -> Any:
    """Numpy-backed columns, none copied into a block: Arrow-backed frames take 13 times as long to check."""
    import pandas as pd

    columns = {column.name: _column(pd, column) for column in frame}
    return pd.DataFrame(columns, copy=False)


def _column(pd: Any, column: pl.Series) -> Any:
    if column.dtype == pl.String and len(column):
        return column.cast(pl.Categorical).to_pandas()  # compared by number, not letter by letter
    if column.dtype == TS_TYPE:
        return pd.Series(column.dt.replace_time_zone(None).to_numpy()).dt.tz_localize("UTC")
    if column.dtype in _PANDAS_FLOATS:
        return column.fill_nan(math.inf).to_numpy()  # NaN would pass for a missing value
    if column.dtype.is_integer() and not column.null_count():
        return column.to_numpy()
    return column.to_pandas()


def _expectation(gx: Any, rule: Rule, number: int) -> Any:
    from great_expectations.expectations.row_conditions import Column

    arguments = dict(rule.arguments)
    if rule.asked_up_to is not None:
        arguments["row_condition"] = Column(arguments["column"]) <= rule.asked_up_to
    return getattr(gx.expectations, rule.kind)(
        **arguments,
        severity="warning" if rule.severity == WARN else "critical",
        meta={"rule": number},
        notes=f"{rule.words} ({rule.key} = {rule.limit:g})" if rule.limit is not None else rule.words,
    )


def _finding(rule: Rule, content: Any, suite: Suite) -> Finding:
    success = bool(content["success"])
    broken = pl.DataFrame() if success or rule.broken is None else _broken(rule, rule.broken, suite)
    return Finding(
        rule=rule.name,
        name=rule.words,
        expectation=content["expectation_config"]["type"],
        severity=rule.severity,
        success=success,
        key=rule.key,
        limit=rule.limit,
        observed=_observed(rule, suite) if rule.limit is not None else float(len(broken)),
        n_unexpected=len(broken),
        rows=[_plain(row) for row in broken.head(_MAX_ROWS).to_dicts()],
        error=_error(content),
    )


def _broken(rule: Rule, broken: pl.Expr, suite: Suite) -> pl.DataFrame:
    table = suite.table if rule.rows is None else rule.rows
    chosen = broken if suite.rows is None else broken & suite.rows
    rows = table.filter(chosen).select(rule.shown)
    if rule.limit is None:
        return rows
    return rows.sort(rule.arguments["column"], descending="max_value" in rule.arguments, maintain_order=True)


def _observed(rule: Rule, suite: Suite) -> float | None:
    """The worst value among those that the rule is asked about."""
    column = pl.col(rule.arguments["column"])
    asked = suite.table if rule.asked_up_to is None else suite.table.filter(column <= rule.asked_up_to)
    worst: Any = asked.select(column.min() if "min_value" in rule.arguments else column.max()).item()
    return None if worst is None else round(float(worst), 9)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _error(content: Any) -> str:
    info = content.get("exception_info") or {}
    each = [info] if "raised_exception" in info else list(info.values())
    messages = [str(one["exception_message"]) for one in each if one.get("raised_exception")]
    return " ".join(messages[0].split()) if messages else ""
