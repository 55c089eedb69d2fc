"""Market data: what a candle is, where candles come from, where they are kept and whether they can be trusted."""
