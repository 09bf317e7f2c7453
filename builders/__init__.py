"""Knowledge to records."""
