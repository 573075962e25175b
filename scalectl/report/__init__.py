"""Results -> Report -> screens. Views go in (views.py), facts are judged (build.py, advice.py), lines come out."""
