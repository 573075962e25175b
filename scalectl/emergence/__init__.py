"""Whether a score jumps with scale (detector), where (threshold), and whether the metric makes it (artefact)."""
