"""The entries of the catalogue, a module a kind; each function yields the features of its kind for a recipe."""
