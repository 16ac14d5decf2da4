"""From an annotation file to batches: reading, registering, mapping, mixing, loading."""
