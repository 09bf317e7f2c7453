"""Tests of world/."""
