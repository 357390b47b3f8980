"""What a person or a pipeline gets to see: data first, then its renderings."""
