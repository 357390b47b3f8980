"""Pairs around activations, codes for weights, tables and biases, and what keeps an engine from undoing either."""
