"""Means, intervals and summaries of what metrics measured."""
