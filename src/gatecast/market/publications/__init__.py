"""What others publish about markets, sentiment and funding: the table, where it comes from, and what is kept of it."""
