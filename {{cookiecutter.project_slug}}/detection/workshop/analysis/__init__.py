"""Statistics of data sets and runs."""
