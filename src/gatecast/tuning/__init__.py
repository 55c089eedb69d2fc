"""The search for hyperparameters on the development period."""
