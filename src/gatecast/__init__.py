"""gatecast: exchange candles in, a proven, reproducible probabilistic forecaster out."""
