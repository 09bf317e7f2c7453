"""Tests of lm/."""
