"""What can be asked of onnxq, one function for each module.

Those of the subjects that have a package are there: `evaluation.evaluate`, `previews.preview`.
"""
