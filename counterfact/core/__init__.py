"""What every room shares: records, data sets, texts, settings, registries, files. Imports no other room."""
