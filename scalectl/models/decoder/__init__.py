"""The decoder language model: GPT-2's shape, pre-norm, with a choice of positions, norms and biases."""
