"""ONNX models in memory and on disk."""
