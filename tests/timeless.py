"""Events of training without what a clock says, to be compared."""

from scalectl.core.rows import Row
from scalectl.train.loop import Ended, Split


def timeless(event):
    if isinstance(event, Row):
        return event._replace(seconds=0.0)
    return event._replace(device_seconds=0.0) if isinstance(event, Ended) else event


def by_run(events):
    """Rows and end of each run; a branch has the rows that its trunk had when it split."""
    found = {}
    for event in events:
        if isinstance(event, Split):
            rows = [row for row in found.get(event.trunk, ()) if row.step <= event.step]
            found[event.run_id] = [row._replace(run_id=event.run_id) for row in rows]
        else:
            found.setdefault(event.run_id, []).append(timeless(event))
    return found
