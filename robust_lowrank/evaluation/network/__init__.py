"""The network under attack is checked, metered, and seen in batches of one size."""
