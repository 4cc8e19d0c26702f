"""Measuring: the benchmarks' protocol, metrics, who labels the photos, and the report."""
