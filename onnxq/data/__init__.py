"""Samples: read from whatever the user has, checked, and brought into the form that a model takes."""
