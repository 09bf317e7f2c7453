"""Tests of `counterfact/api/` and of what the package gives by name."""
