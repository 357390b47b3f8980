"""Accuracy won back after rounding."""
