"""The modes of `onnxq.quantize`: for each the order of its stages, from a float model to a verified one."""
