"""Ripples of an edit: what must follow from it and what must stay, from the facts that its record was built from."""
