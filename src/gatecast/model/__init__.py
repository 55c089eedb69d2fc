"""The network, its dense training in anchored blocks, and the model folder."""
