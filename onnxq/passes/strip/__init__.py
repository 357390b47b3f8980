"""Q/DQ pairs taken out of a graph again."""
