"""Benchmarks: what is asked of a model about a record, and what is kept. One new file is one new benchmark."""
