"""Post-training quantization of ONNX graphs to int8 that the target engine provably runs."""
