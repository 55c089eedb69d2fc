"""The report that a person reads, and the comparison of two runs: files and figures in, pages that open offline out."""
