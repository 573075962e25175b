"""The vision transformer: an image as a sequence of patches, read by one more token (Dosovitskiy et al. 2020)."""
