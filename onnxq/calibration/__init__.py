"""Calibration: a model run over samples, its statistics, ranges from them."""
