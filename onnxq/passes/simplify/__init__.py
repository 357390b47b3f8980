"""What every float model goes through first; what it computes stays the same."""
