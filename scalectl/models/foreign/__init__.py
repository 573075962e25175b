"""Other people's models: a plain `torch.nn.Module`, named `package.module:NAME` in the sweep file.

spec.py asks about it (torch-free), examine.py looks at it in a process of its own, forward.py trains it.
"""
