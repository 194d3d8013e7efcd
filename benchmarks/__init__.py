"""The commands behind docs/benchmarks.md; each prints the table that is committed there."""
