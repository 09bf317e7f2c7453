"""Forward passes over many rows at once: rows of unequal length, each perhaps after a constant prefix."""
