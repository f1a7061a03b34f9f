"""Measurements against peers; `make bench` runs them all and prints the machine beside the figures."""
