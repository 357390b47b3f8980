"""Placement chosen by the clock: candidates are run on this machine, and the fastest is kept."""
