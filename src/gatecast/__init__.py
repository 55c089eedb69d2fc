"""gatecast: exchange candles in, a proven, reproducible, monitored probabilistic forecaster out."""
