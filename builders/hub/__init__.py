"""Publishing on the Hugging Face Hub: parquet files, a card, Croissant metadata, an upload under a version tag."""
