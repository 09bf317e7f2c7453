"""What tests share: small models, worlds, servers on loopback, independent computations."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The root of the repository."""
