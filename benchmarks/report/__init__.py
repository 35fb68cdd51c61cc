"""Raw data in; docs/benchmarks.md and its plots out."""
