"""`multispike reproduce`: the tables and figures of docs/results.md from runs, and the page."""
