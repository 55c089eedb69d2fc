"""The configuration: one frozen model a section of `conf/params.yaml`, which holds every key: none has a default."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gatecast.config_ingest import IngestConfig
from gatecast.config_types import (
    Bars,
    BarsFrom,
    Instant,
    Limits,
    Name,
    Range,
    Section,
    Seed,
    Spans,
    Symbol,
)
from gatecast.errors import ConfigurationError

MIN_FOLDS = 4  # fewer say little about how a model does in another market phase
REQUIRED_BASELINES = ("naive", "ewma")
BaselineName = Literal["naive", "drift", "seasonal_naive", "ewma", "garch", "har", "linear", "lightgbm", "prophet"]


class CleanConfig(Section):
    """When a tick counts as an outlier."""

    outlier_bars: BarsFrom = Field(
        ge=10, description="known log returns before a bar, of which median and median absolute deviation are taken"
    )
    outlier_deviations: float = Field(
        gt=0, description="scaled deviations from the median beyond which a bar is marked as outlier"
    )


class ValidateConfig(Section):
    """What clean candles and features must satisfy; a warning is reported, a failure stops the pipeline."""

    min_bars: Bars = Field(description="fewest bars of a market that can be split and scored")
    missing_share: Limits = Field(description="share of the bars of a market that are missing")
    month_missing_share: Limits = Field(description="share of the bars of a market that are missing in one month")
    quarantined_share: Limits = Field(description="share of the raw rows of a market that are in quarantine")
    month_quarantined_share: Limits = Field(
        description="share of the raw rows of a market that are in quarantine in one month"
    )
    hole_bars: Limits = Field(description="longest run of missing bars of a market")
    standstill_bars: Limits = Field(
        description="longest run of bars of a market that repeat one close, as filled holes do"
    )
    zero_volume_bars: Limits = Field(description="longest run of bars of a market without volume")
    filler_share: Limits = Field(description="share of the bars of a market that look like a vendor's filling of holes")
    log_return: Limits = Field(
        description="largest move of one bar, log return without its sign; a tenfold decimal slip is 2.3"
    )
    log_range: Limits = Field(description="largest range of one bar, log of high over low")
    reference_gap: Limits = Field(
        description="largest distance of a close from that of the second venue, log of their ratio without its sign"
    )
    reference_apart_share: Limits = Field(
        description="share of compared bars that lie further from the second venue than validate.reference_gap.warn"
    )
    reference_alone_share: Limits = Field(
        description="share of the bars of a market that have no partner at the second venue"
    )
    feature_null_share: Limits = Field(
        description="share of the bars with a candle at which a feature has no value, of one market and feature"
    )


class FeaturesConfig(Section):
    """Which features, their spans, and the volatility that scales the target; spans in bars."""

    use: tuple[str, ...] = Field(
        min_length=1,
        description="features to use, by name or pattern such as return_*; `gatecast features --list` shows all",
    )
    return_spans: Spans = Field(description="spans of the log returns, bars")
    average_spans: Spans = Field(description="spans of the moving averages, candles")
    volatility_half_lives: Spans = Field(description="half-lives of the realised volatilities, candles")
    volume_half_lives: Spans = Field(description="half-lives of the volume z-scores, the last also of VWAP and OBV")
    rsi_bars: BarsFrom = Field(ge=2, description="span of the relative strength index, candles")
    macd_bars: tuple[Bars, Bars, Bars] = Field(description="fast, slow and signal span of MACD, candles")
    bollinger_bars: BarsFrom = Field(ge=2, description="span of the Bollinger bands, candles")
    atr_bars: BarsFrom = Field(ge=2, description="span of the average true range, candles")
    window_bars: BarsFrom = Field(ge=10, description="window of drawdown, skew and autocorrelation, candles")
    universe_bars: Bars = Field(description="span of the returns that several markets are compared by, bars")
    published_half_life: Bars = Field(description="half-life of headlines and funding rates, bars")
    lead_symbol: Symbol | None = Field(
        description="market that the others are said to follow; null: that of BTC, else the first"
    )
    scale_half_life: Bars = Field(description="half-life of the volatility that scales the target, bars")
    volatility_floor: float = Field(gt=0, description="smallest volatility of one bar, log return")
    n_leak_cuts: int = Field(ge=1, le=1000, description="instants at which the leak prover cuts the input")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        fast, slow, signal = self.macd_bars
        if not 2 <= fast < slow or signal < 1:  # noqa: PLR2004 - TA-Lib's least span
            raise ValueError(f"macd_bars {fast}, {slow}, {signal} are not a fast span from 2 on and a slower one")
        return self


class ModelConfig(Section):
    """The network and how it is trained, apart from what `tune` searches."""

    network: Literal["lstm", "cnn_lstm", "attention_lstm"] = Field(
        description="variant of the network: an LSTM, convolutions in front of it, or attention over its states"
    )
    head: Literal["quantiles", "student_t"] = Field(
        description="a quantile a level, trained by pinball loss, or a Student-t, trained by likelihood"
    )
    normalisation: Literal["none", "layer"] = Field(description="of the LSTM's states before the head")
    horizons: Spans = Field(description="bars ahead to forecast")
    stride: BarsFrom = Field(ge=8, description="bars of a block that are predicted; blocks are counted from the epoch")
    burn_in: Bars = Field(description="bars before each block from which the state is warmed, starting at zero")
    n_layers: int = Field(ge=1, le=8, description="LSTM layers")
    embedding_size: int = Field(ge=0, le=256, description="channels that tell several markets apart; 0: none")
    kernel_bars: int = Field(ge=1, le=256, description="bars that a convolution of cnn_lstm sees")
    n_attention_heads: int = Field(ge=1, le=64, description="heads of attention_lstm; they divide every hidden size")
    batch_blocks: int = Field(ge=1, le=4096, description="blocks of one optimiser step")
    schedule: Literal["constant", "cosine"] = Field(
        description="of the learning rate: as it is, or up over a tenth of the steps and down on a half cosine"
    )
    gradient_clip: float = Field(gt=0, description="largest gradient norm of one optimiser step")
    n_devices: int = Field(ge=1, le=64, description="cards or processes that share the blocks of a step (DDP)")
    calibration_share: float = Field(
        gt=0, le=0.5, description="share of a train span, its newest bars, that calibrates the quantiles"
    )
    n_seeds: int = Field(ge=1, le=64, description="networks whose quantiles are averaged, in evaluate and fit alike")
    seed: Seed = Field(description="first seed of the networks")
    train_bars: BarsFrom | None = Field(
        ge=500, description="newest bars of a train span that are used (sliding folds); null: all of them (expanding)"
    )
    warm_start: float | None = Field(
        gt=0,
        le=1,
        description="share of the steps that a network takes on from that of the fold before; null: every fold anew",
    )


class SplitConfig(Section):
    """Where the development period ends; empty until `ingest` resolves it, then frozen."""

    development_end: Instant | None = Field(
        description="first instant (UTC) that `tune` never sees; null: resolved by ingest"
    )
    fold_bars: Bars | None = Field(description="bars of one evaluation fold; null: resolved by ingest")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.development_end is None) != (self.fold_bars is None):
            raise ValueError("development_end and fold_bars are both set or both null")
        return self

    @property
    def resolved(self) -> tuple[datetime, int]:
        """The boundary and the length of a fold.

        Raises:
            ConfigurationError: `ingest` has not resolved them yet.
        """
        if self.development_end is None or self.fold_bars is None:
            raise ConfigurationError(
                "split.development_end and split.fold_bars are null: run `gatecast ingest`, which resolves them"
            )
        return self.development_end, self.fold_bars


class TuneConfig(Section):
    """The search on the development period."""

    n_trials: int = Field(ge=1, le=100_000, description="budget of the study, in trials")
    n_startup_trials: int = Field(ge=0, description="first trials that are drawn at random and never pruned")
    batch_trials: int = Field(
        ge=1, le=1000, description="trials asked together and trained side by side; another number finds other ones"
    )
    n_inner_folds: int = Field(ge=1, le=20, description="walk-forward folds inside the development period")
    max_epochs: int = Field(ge=1, le=10_000, description="most passes of early stopping over the train slice")
    patience: int = Field(
        ge=1, description="passes without improvement on the stopping slice after which training stops"
    )
    step_factor: float = Field(
        ge=1, le=20, description="steps on a falling rate for each that early stopping found at a constant one"
    )
    seed: Seed = Field(description="seed of the sampler and of the networks of the search")
    hidden_size: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        min_length=1, description="widths to choose from"
    )
    learning_rate: Range = Field(description="range of the learning rate")
    dropout: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        min_length=1, description="dropout rates to choose from"
    )
    weight_decay: Range = Field(description="range of the weight decay")


class EvaluateConfig(Section):
    """The walk-forward evaluation."""

    n_folds: int = Field(
        ge=MIN_FOLDS, le=1000, description="folds into which the evaluation period is cut when split is resolved"
    )
    search: Literal["once", "every_fold"] = Field(
        description="hyperparameters of `tune`, or searched anew on the train span of each fold, and of `fit`"
    )
    baselines: tuple[BaselineName, ...] = Field(
        description="baselines, fixed before the run; every one has to be beaten"
    )
    alpha: float = Field(gt=0, le=0.1, description="level of the one-sided Diebold-Mariano tests")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if absent := set(REQUIRED_BASELINES) - set(self.baselines):
            raise ValueError(f"baselines lacks {', '.join(sorted(absent))}, which every model has to beat")
        if repeated := sorted({name for name in self.baselines if self.baselines.count(name) > 1}):
            raise ValueError(f"baselines names {', '.join(repeated)} more than once")
        return self


class StrategyConfig(Section):
    """The threshold strategy whose returns after costs are reported beside the losses; costs are those of one way."""

    fee_bps: float = Field(ge=0, le=1000, description="fee of the venue, basis points of what is traded")
    slippage_bps: float = Field(ge=0, le=1000, description="slippage, basis points of what is traded")
    threshold_bps: float = Field(
        ge=0, le=10_000, description="least median return over the horizon that opens a position, basis points"
    )


class PromoteConfig(Section):
    """What a challenger must beat, and the name under which it is registered."""

    model_name: Name = Field(description="registered model name in MLflow")
    horizons: Spans = Field(description="horizons, named beforehand, at which every baseline must be beaten")


class ForecastConfig(Section):
    """What the fan chart shows."""

    chart_bars: Bars = Field(description="past bars drawn before the forecast")


class Config(Section):
    """The whole of `conf/params.yaml`."""

    ingest: IngestConfig
    clean: CleanConfig
    validate_: ValidateConfig = Field(alias="validate")
    features: FeaturesConfig
    model: ModelConfig
    split: SplitConfig
    tune: TuneConfig
    evaluate: EvaluateConfig
    strategy: StrategyConfig
    promote: PromoteConfig
    forecast: ForecastConfig

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if unknown := set(self.promote.horizons) - set(self.model.horizons):
            raise ValueError(
                f"promote.horizons names {sorted(unknown)}, not among model.horizons {list(self.model.horizons)}"
            )
        heads = self.model.n_attention_heads
        odd = [size for size in self.tune.hidden_size if size % heads]
        if self.model.network == "attention_lstm" and odd:
            raise ValueError(f"tune.hidden_size {odd[0]} is no multiple of the {heads} of model.n_attention_heads")
        lead = self.features.lead_symbol
        if lead is not None and lead not in self.ingest.symbols:
            raise ValueError(
                f"features.lead_symbol {lead} is not among ingest.symbols {', '.join(self.ingest.symbols)}"
            )
        return self
