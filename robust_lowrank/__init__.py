"""Low-rank training with bounded condition numbers, and attacks strict enough to publish."""
