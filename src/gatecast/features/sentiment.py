"""What headlines sound like: the score of VADER, a lexicon with rules, which needs no network and no training."""

from functools import cache

import polars as pl
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from gatecast.market.publications.table import HEADLINES, SOURCE, TEXT, VALUE


def scored(publications: pl.DataFrame) -> pl.DataFrame:
    """The publications with the score of each headline as its value; the others as they are.

    A score is a function of the text alone, so it is known when the headline is.

    Args:
        publications: The columns of `PUBLICATION_SCHEMA`.

    Returns:
        The same rows in the same order. The value of a headline is VADER's compound score, -1 (bad) to 1 (good).

    Source:
        Hutto and Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text,
        ICWSM 8; with the lexicon of the package.
    """
    of_headline = pl.col(SOURCE) == HEADLINES
    texts = publications.filter(of_headline)[TEXT].unique(maintain_order=True)
    if texts.is_empty():
        return publications
    analyzer = _analyzer()
    scores = [float(analyzer.polarity_scores(text)["compound"]) for text in texts]
    score = pl.col(TEXT).replace_strict(texts, pl.Series(scores, dtype=pl.Float64), default=None)
    return publications.with_columns(pl.when(of_headline).then(score).otherwise(VALUE).alias(VALUE))


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()
