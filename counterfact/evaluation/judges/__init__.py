"""Judges of free generation, one file each; found by discovery."""
