"""The steps of the lifecycle, one file a step, each with one `run`: read, one call into the domain, write."""
