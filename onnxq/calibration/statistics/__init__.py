"""What calibration keeps of the tensors it saw: their values, their file, and how they are taken from arrays."""
