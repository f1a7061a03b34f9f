"""Attacks of other packages get all examples at once."""
