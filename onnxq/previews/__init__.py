"""What data would feed a model: shapes, ranges, doubts and pictures (`onnxq.preview`, `onnxq data`)."""
