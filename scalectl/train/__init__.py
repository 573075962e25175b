"""Training: a job in, rows out. Imports torch; only workers and probes come here."""
