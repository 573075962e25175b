"""scalectl: the scaling-law laboratory that runs in a terminal."""

__version__ = "0.1.0"
