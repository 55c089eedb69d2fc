"""What is expected of a table, and how each expectation came out; plain data, free of the library that checks them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import polars as pl

from gatecast.config_types import Limits
from gatecast.market.candles import SYMBOL, TS

Severity = Literal["fail", "warn"]
FAIL: Severity = "fail"
WARN: Severity = "warn"
BETWEEN = "ExpectColumnValuesToBeBetween"
KEYS = (SYMBOL, TS)
STEP = "step"  # from the row before in the market


@dataclass(frozen=True)
class Rule:
    """One expectation and what a person calls it.

    Attributes:
        name: Short name, as tests and metrics have it: `missing_share.fail`.
        words: What has to hold or, for a matter of degree, what is measured.
        kind: Class name of the expectation.
        arguments: Its arguments.
        broken: Which rows of the table break it; None where it is about the table as a whole.
        shown: Columns that a person wants to see of these rows.
        severity: Whether a breach stops the pipeline or is reported.
        key: Key of the configuration that holds its limit; empty where it is not a matter of degree.
        limit: The limit.
        rows: Table in which the rows that break it are looked up, where its own has only the worst of each market.
        asked_up_to: Rows beyond this value of its column are another rule's: a failure is not a warning as well.
    """

    name: str
    words: str
    kind: str
    arguments: dict[str, Any]
    broken: pl.Expr | None = None
    shown: tuple[str, ...] = ()
    severity: Severity = FAIL
    key: str = ""
    limit: float | None = None
    asked_up_to: float | None = None
    rows: pl.DataFrame | None = None


@dataclass(frozen=True)
class Suite:
    """Rules over one table.

    Attributes:
        name: What the table is.
        table: Where rows that break a rule are looked up.
        columns: Columns that the rules look at; all if empty.
        rows: Which rows they look at; None for all.
        rules: The rules.
    """

    name: str
    table: pl.DataFrame
    rules: tuple[Rule, ...]
    columns: tuple[str, ...] = ()
    rows: pl.Expr | None = None

    def checked(self) -> pl.DataFrame:
        """The part of the table that the rules look at."""
        chosen = self.table if self.rows is None else self.table.filter(self.rows)
        return chosen.select(self.columns) if self.columns else chosen


@dataclass(frozen=True)
class Finding:
    """How one rule came out.

    Attributes:
        rule: Its short name.
        name: What has to hold or, for a matter of degree, what is measured.
        expectation: Type of the expectation.
        severity: Whether a breach stops the pipeline (`fail`) or is reported (`warn`).
        success: Whether it holds.
        key: Key of the configuration that holds its limit; empty where it is not a matter of degree.
        limit: The limit.
        observed: The worst value, for a matter of degree; otherwise the count of rows that break the rule.
        n_unexpected: Rows that break it.
        rows: The first of them; for a matter of degree the worst.
        error: Why it could not be judged; empty if it could.
    """

    rule: str
    name: str
    expectation: str
    severity: Severity
    success: bool
    key: str = ""
    limit: float | None = None
    observed: float | None = None
    n_unexpected: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.name} could not be judged ({self.error}) [rule {self.rule}]"
        shown = "; ".join(" ".join(map(_shown, row.values())) for row in self.rows)
        order = "first" if self.limit is None else "worst"
        where = f"{self.n_unexpected} row(s), the {order}: {shown}" if shown else "the table as a whole"
        if self.limit is None:
            return f"it does not hold that {self.name}: {where} [rule {self.rule}]"
        side = "above" if self.observed is None or self.observed > self.limit else "below"
        bound = f"{side} the limit {self.limit:g} (change it with {self.key})"
        return f"{self.name} is {_shown(self.observed)}, {bound}: {where} [rule {self.rule}]"


def degrees(
    column: str,
    words: str,
    limits: Limits,
    shown: Sequence[str],
    levels: Sequence[Severity] = (FAIL, WARN),
    rows: pl.DataFrame | None = None,
) -> list[Rule]:
    """The rules of one measure: a column must not exceed the levels that are configured.

    Args:
        column: Column of the measure, named like its key in the section `validate`.
        words: What is measured.
        limits: Its levels.
        shown: Columns to show of a row that breaks a rule.
        levels: Which of the levels to ask for.
        rows: Table in which the rows are looked up, if not in that of the suite.
    """
    rules = []
    for level in levels:
        limit: float | None = getattr(limits, level)
        if limit is None:
            continue
        ceiling = limits.fail if level == WARN else None
        broken = pl.col(column) > limit
        rules.append(
            Rule(
                f"{column}.{level}", words, BETWEEN, {"column": column, "max_value": limit},
                broken if ceiling is None else broken & (pl.col(column) <= ceiling),
                (*shown, column), level, f"validate.{column}.{level}", limit, ceiling, rows,
            )
        )  # fmt: skip
    return rules


def schema_rules(types: Mapping[str, str], table: str) -> tuple[Rule, ...]:
    """Columns are there and of their types, as pandas names them."""
    return (
        Rule(
            f"columns_of_{table}",
            f"the columns of {table} are all there",
            "ExpectTableColumnsToMatchSet",
            {"column_set": list(types), "exact_match": False},
        ),
        *(
            Rule(
                f"{name}.type",
                f"{name} is of type {kind}",
                "ExpectColumnValuesToBeOfType",
                {"column": name, "type_": kind},
            )
            for name, kind in types.items()
        ),
    )


def key_rules(never_empty: tuple[str, ...], what: str) -> tuple[Rule, ...]:
    """Rows are named once and in order.

    Args:
        never_empty: Columns that have a value in every row.
        what: What increases within a market; the table has the difference to the row before as column `step`.
    """
    # a row beside its double does not go back, and a row that goes back has no double
    return (
        *(
            Rule(
                f"{name}.present",
                f"{name} is never empty",
                "ExpectColumnValuesToNotBeNull",
                {"column": name},
                pl.col(name).is_null(),
                KEYS,
            )
            for name in never_empty
        ),
        Rule(
            "keys_unique",
            "a market has one row a bar",
            "ExpectCompoundColumnsToBeUnique",
            {"column_list": list(KEYS), "ignore_row_if": "never"},
            pl.struct(KEYS).is_duplicated(),
            KEYS,
        ),
        Rule(
            f"{what}_increase",
            f"the {what} of a market increase",
            BETWEEN,
            {"column": STEP, "min_value": 0},
            pl.col(STEP) < 0,
            (*KEYS, STEP),
        ),
    )


def report(findings: Sequence[Finding], input_sha256: str) -> dict[str, Any]:
    """The findings as they stand in validation.json: no clock, no run id, so that equal candles give equal bytes."""
    failed = [each for each in findings if not each.success and each.severity == FAIL]
    warned = warnings_of(findings)
    return {
        "success": not failed,
        "input_sha256": input_sha256,
        "counts": {
            "expectations": len(findings),
            "passed": len(findings) - len(failed) - len(warned),
            "warned": len(warned),
            "failed": len(failed),
        },
        "warnings": [str(each) for each in warned],
        "expectations": [asdict(each) for each in findings],
    }


def failures_of(findings: Sequence[Finding]) -> list[Finding]:
    """What stops the pipeline."""
    return [each for each in findings if not each.success and each.severity == FAIL]


def warnings_of(findings: Sequence[Finding]) -> list[Finding]:
    """What is reported."""
    return [each for each in findings if not each.success and each.severity == WARN]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
