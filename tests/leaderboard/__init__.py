"""Tests of leaderboard/."""
