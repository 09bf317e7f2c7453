"""Sizes of batches, and the memory that they need."""
