"""Rewrites of a graph."""
