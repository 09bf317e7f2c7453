"""Golden numbers of our own, and what makes them."""
