"""Tapped tensors: which leave the model and in what form, and how they are read run by run."""
