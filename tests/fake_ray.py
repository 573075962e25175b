"""A stand-in for the module `ray`: tasks are processes here, so many at once, and nodes are what a test says."""

import multiprocessing
import os
import signal
import types


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class TaskCancelledError(RayError):
    pass


class WorkerCrashedError(RayError):
    pass


class NodeDiedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


def _run(function, arguments, pipe):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        pipe.send(("value", function(*arguments)))
    except KeyboardInterrupt:
        pipe.send(("cancelled", None))
    except Exception as error:  # noqa: BLE001 as a worker of Ray does
        pipe.send(("error", f"ray::{function.__name__}()\n{type(error).__name__}: {error}"))


class Task:
    """One task: a process as soon as there is room for it."""

    def __init__(self, function, arguments, options):
        self.function, self.arguments, self.options = function, arguments, options
        self.process = None
        self.cancelled = False
        self.error = None
        self.result = None

    def start(self):
        self.pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(self.function, self.arguments, theirs)
        )
        self.process.start()
        theirs.close()

    @property
    def over(self):
        if self.process is None:
            return self.cancelled
        if self.result is None and self.pipe.poll():
            try:
                self.result = self.pipe.recv()
            except EOFError:
                self.result = ("died", None)
        if self.result is not None:
            self.process.join()
            self.pipe.close()
        return self.result is not None


class FakeRay(types.ModuleType):
    """`slots` tasks run at once. Set `nodes_held` to what ray.nodes() answers."""

    exceptions = types.SimpleNamespace(
        RayError=RayError, RayTaskError=RayTaskError, TaskCancelledError=TaskCancelledError,
        WorkerCrashedError=WorkerCrashedError, NodeDiedError=NodeDiedError, OutOfMemoryError=OutOfMemoryError,
    )  # fmt: skip

    def __init__(self, slots=2):
        super().__init__("ray")
        self.slots = slots
        self.tasks = []
        self.joined = None
        self.left = False
        self.answers = True  # its head, to who knocks
        self.refuses = None
        self.nodes_held = [self.node("a1" * 8), self.node("b2" * 8)]

    @staticmethod
    def node(name, address="10.0.0.1", alive=True, **resources):
        return {"NodeID": name, "NodeManagerAddress": address, "Alive": alive, "Resources": {"CPU": 1.0, **resources}}

    def init(self, **options):
        if self.refuses is not None:
            raise self.refuses
        self.joined = options

    def get_runtime_context(self):
        return types.SimpleNamespace(gcs_address="10.0.0.1:6379")

    def nodes(self):
        return self.nodes_held

    def remote(self, function):
        def options(**held):
            def remote(*arguments):
                self.tasks.append(Task(function, arguments, held))
                self._fill()
                return self.tasks[-1]

            return types.SimpleNamespace(remote=remote)

        return types.SimpleNamespace(options=options)

    def _fill(self):
        for task in self.tasks:
            going = sum(held.process is not None and not held.over for held in self.tasks)
            if task.process is None and not task.cancelled and going < self.slots:
                task.start()

    def wait(self, tasks, num_returns, timeout):
        assert (num_returns, timeout) == (len(tasks), 0)
        over = [task for task in tasks if task.over]
        self._fill()
        return over, [task for task in tasks if task not in over]

    def get(self, task):
        if task.error is not None:
            raise task.error
        kind, value = task.result or ("cancelled", None)
        if kind == "value":
            return value
        if kind == "error":
            raise RayTaskError(value)
        raise TaskCancelledError if kind == "cancelled" or task.cancelled else WorkerCrashedError

    def cancel(self, task, force=False):
        if task.process is None:
            task.cancelled = True
        elif not task.over:
            task.cancelled = force
            os.kill(task.process.pid, signal.SIGKILL if force else signal.SIGINT)

    def kill(self, task, error=None):
        """What a test does to a worker: SIGKILL, which Ray reports as `error`."""
        task.error = error
        task.process.kill()

    def shutdown(self):
        self.left = True
        for task in self.tasks:
            if task.process is not None and not task.over:
                task.process.kill()
                task.process.join()
