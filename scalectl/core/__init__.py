"""The nouns that everything else speaks: runs, costs, jobs, rows, errors. Standard library and numpy only."""
