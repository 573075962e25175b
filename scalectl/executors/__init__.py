"""Executors start and stop the processes that train; they carry no data and are never believed about state."""
