"""Running models under onnxruntime."""
