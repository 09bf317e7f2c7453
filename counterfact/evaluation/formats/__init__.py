"""Forms of records: one file for each family."""
