"""What an editor, a metric and a benchmark are, and the registries that find them."""
