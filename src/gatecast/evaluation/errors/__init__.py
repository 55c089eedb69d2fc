"""The error analysis: where the LSTM is better and worse than the best baseline, and what it lives on."""
