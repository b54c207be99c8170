"""A CSV manifest."""
