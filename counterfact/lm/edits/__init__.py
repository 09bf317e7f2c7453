"""Edits as data, and how they are applied to a model."""
