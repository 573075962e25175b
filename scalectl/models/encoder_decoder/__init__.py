"""The encoder-decoder: one stack reads the prompt, another writes the answer and looks at it (Vaswani et al. 2017)."""
