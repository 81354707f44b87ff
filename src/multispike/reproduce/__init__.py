"""`multispike reproduce`: the runs and measurements behind docs/results.md."""
