"""One file per verb: paths and flags in, a frozen view out, no printing."""
