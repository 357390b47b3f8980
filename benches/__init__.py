"""Side-by-side measurements of onnxq and its peers on the models of `tests.zoo`."""
