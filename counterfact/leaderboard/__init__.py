"""Results to a ranked page."""
