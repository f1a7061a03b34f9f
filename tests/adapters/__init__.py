"""Updates of frozen weights."""
