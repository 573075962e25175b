"""From a sweep file to jobs: spec.py reads, block.py resolves, plan.py counts, pack.py groups."""
