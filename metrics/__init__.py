"""Metrics: each turns what a model said about one record into a number. One new file here is one new metric."""
