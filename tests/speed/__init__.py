"""Tests of speed/."""
