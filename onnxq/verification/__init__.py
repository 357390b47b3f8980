"""What the target's real engine makes of a quantized model, and how far its outputs are from the float model's."""
