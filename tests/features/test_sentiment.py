"""Scores of headlines: a function of the text alone."""

from datetime import UTC, datetime

import polars as pl
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from gatecast.features.sentiment import scored
from gatecast.market.publications.files import read_headlines
from gatecast.market.publications.table import (
    FEAR_GREED,
    FUNDING,
    HEADLINES,
    PUBLICATION_SCHEMA,
    PUBLISHED_AT,
    TEXT,
    VALUE,
    as_publications,
    together,
)
from tests.market.real_candles import FOLDER, real_file

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def headlines(*texts: str) -> pl.DataFrame:
    return as_publications(pl.DataFrame({TEXT: texts, PUBLISHED_AT: [NOON] * len(texts)}), HEADLINES)


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Bitcoin surges to a great record, investors are happy", 1),
        ("Exchange hacked, customers lose everything in terrible fraud", -1),
        ("Bitcoin trades at 20,000 dollars", 0),
        ("", 0),
        ("\u6bd4\u7279\u5e01 \U0001f680", 0),
    ],
)
def test_good_news_is_above_zero_and_bad_news_below(text: str, sign: int) -> None:
    score = scored(headlines(text))[VALUE][0]
    assert -1 <= score <= 1
    assert (score > 0) - (score < 0) == sign


def test_only_headlines_are_scored_and_rows_stay_where_they_are() -> None:
    index = as_publications(pl.DataFrame({PUBLISHED_AT: [NOON], VALUE: [40.0]}), FEAR_GREED)
    rate = as_publications(pl.DataFrame({PUBLISHED_AT: [NOON], VALUE: [0.0001]}), FUNDING, "BTC/USDT")
    rows = pl.concat([rate, headlines("great", "awful", "great"), index])
    found = scored(rows)
    assert found.drop(VALUE).equals(rows.drop(VALUE))
    assert found[VALUE].to_list()[0] == 0.0001
    assert found[VALUE].to_list()[4] == 40.0
    assert found[VALUE][1] == found[VALUE][3] > 0 > found[VALUE][2]
    assert scored(found).equals(found)


def test_nothing_to_score_is_as_it_was() -> None:
    assert scored(together([])).equals(together([]))
    assert scored(together([])).schema == PUBLICATION_SCHEMA


def test_real_headlines_have_the_scores_of_the_package_whatever_stands_beside_them() -> None:
    path = real_file("crypto_news_2021_2022", "sentiment")
    rows = together([read_headlines(path.name, FOLDER / "sentiment")])
    found = scored(rows)
    assert found[VALUE].null_count() == 0
    assert found[VALUE].is_between(-1, 1).all()
    assert found[1000:1100].equals(scored(rows[1000:1100])), "a score is a function of its text"
    analyzer = SentimentIntensityAnalyzer()
    sample = found[::500]
    assert [analyzer.polarity_scores(text)["compound"] for text in sample[TEXT]] == sample[VALUE].to_list()
