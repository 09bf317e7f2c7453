"""What tests share: small models, worlds, servers on loopback, independent computations."""

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The root of the repository."""

Command = Callable[..., tuple[int, str, str]]
"""Runs `counterfact` with arguments; returns exit code, stdout, stderr."""
