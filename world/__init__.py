"""How the embedded world in data/ is made."""
