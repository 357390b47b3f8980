"""onnx's own backend tests as the judge of onnxq: every model comes out valid and right, or with a typed error."""
