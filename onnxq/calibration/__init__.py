"""Calibration: data in, statistics, ranges."""
