"""The multilayer perceptron over the symbols of a prompt, for problems whose answer is one token."""
