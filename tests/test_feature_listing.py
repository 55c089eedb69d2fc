"""The catalogue as people meet it: the command line, and the page in docs."""

import json
from typing import Any

import pytest

from gatecast.config import Config
from gatecast.feature_listing import in_words, listing, page, recipe_of
from gatecast.features.catalogue import declared, feature_names
from gatecast.features.feature import Recipe
from gatecast.market.publications.table import SOURCES
from tests.command_line import gatecast
from tests.conftest import REPOSITORY
from tests.features.markets import SYMBOLS, everything


@pytest.fixture(scope="module")
def shipped(config: Config) -> Recipe:
    return Recipe(config.features, SYMBOLS[:2], "1h", SOURCES)


def test_the_page_in_docs_is_the_one_that_the_catalogue_gives(shipped: Recipe) -> None:
    found = (REPOSITORY / "docs" / "features.md").read_text(encoding="utf-8")
    assert found == page(shipped), "run `make docs`"


def test_the_page_has_a_row_an_entry_with_all_that_it_declares(shipped: Recipe) -> None:
    rows = {line.split("|")[1].strip(): line for line in page(shipped).splitlines() if line.startswith("| `")}
    for entry in declared(shipped):
        row = rows[f"`{entry.name}`"]
        for words in (entry.formula, entry.unit, entry.source, f"{entry.look_back:,}", f"{entry.warm_up:,}"):
            assert f"| {words} |" in row, entry.name
        assert row.count("|") == 8, "a formula with a bar in it would break the table"
    assert len(rows) == len(declared(shipped))


def test_the_page_of_a_range_shows_its_ends(shipped: Recipe) -> None:
    table = page(shipped)
    assert "| -0.5 … 0.5 | Wilder (1978)" in table
    assert "|  … 0 | Magdon-Ismail" in table
    assert "| 0 …  | Tetlock" in table


def test_the_listing_is_plain_data_that_says_what_is_used(config: Config) -> None:
    recipe = everything(config, SYMBOLS[:1], (), use=("rsi", "body", "news_*"))
    entries = listing(recipe)
    assert [entry["name"] for entry in entries] == [entry.name for entry in declared(recipe)]
    assert [entry["name"] for entry in entries if entry["used"]] == ["rsi", "body"]
    by_name = {entry["name"]: entry for entry in json.loads(json.dumps(entries, allow_nan=False))}
    assert by_name["rsi"]["bounds"] == [-0.5, 0.5]
    assert by_name["drawdown"]["bounds"] == [None, 0.0]
    assert by_name["news_sentiment"]["published"] == "headlines"
    assert by_name["rsi"]["published"] is None


def test_the_listing_in_words_says_what_a_feature_lacks(config: Config) -> None:
    lines = list(in_words(listing(everything(config, SYMBOLS[:1], (), use=("rsi", "news_*", "breadth")))))
    assert "rsi" in lines
    assert "body  (off)" in lines
    assert "news_sentiment  (off: needs headlines)" in lines
    assert "breadth  (off: needs two markets)" in lines
    assert lines[-1].startswith("1 of ")


@pytest.fixture(scope="module")
def listed() -> list[dict[str, Any]]:
    ended = gatecast(REPOSITORY, "features", "--list", "--json")
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def test_the_command_line_lists_the_catalogue_of_the_configuration(
    config: Config, listed: list[dict[str, Any]]
) -> None:
    recipe = recipe_of(config)
    assert listed == listing(recipe)
    assert tuple(entry["name"] for entry in listed if entry["used"]) == feature_names(recipe)


def test_the_command_line_prints_every_name_for_people(listed: list[dict[str, Any]]) -> None:
    ended = gatecast(REPOSITORY, "features", "--list")
    assert ended.returncode == 0, ended.stderr
    first_words = {line.split()[0] for line in ended.stdout.splitlines() if line and not line.startswith(" ")}
    assert {entry["name"] for entry in listed} <= first_words
    assert ended.stderr == ""
