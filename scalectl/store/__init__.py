"""The truth on disk: run files, runs in flight, sweeps, and what is derived from them."""
