"""The network under attack: checked, behind a fixed interface, metered, and in batches of one size."""
