"""Export of a trained encoder for other programs: weights, a PyTorch program, ONNX, a Hugging Face folder."""
