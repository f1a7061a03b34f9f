"""Attacks of other packages, which are given all examples at once."""
