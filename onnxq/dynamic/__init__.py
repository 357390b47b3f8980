"""Dynamic quantization: int8 weights, and activations that are quantized as they come, without calibration."""
