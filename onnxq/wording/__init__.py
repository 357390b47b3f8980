"""Words in sentences: counts, sizes, and what people call a target."""
