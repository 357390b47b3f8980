"""Weight-only quantization: weights stored in 4 or 8 bits, arithmetic in float."""
