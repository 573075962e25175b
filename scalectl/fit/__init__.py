"""Fits: points and a law to estimates, each with its interval and the courage to say that it is not known."""
