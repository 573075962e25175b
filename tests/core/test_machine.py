import mmap
import os
import signal
import subprocess
import sys

from scalectl.core.machine import device_name, killed, memory_total, resident


def test_a_device_has_a_name_without_torch():
    assert device_name("cpu")


def test_memory_of_a_process_is_what_it_holds_and_none_once_it_is_gone():
    before = resident(os.getpid())
    with mmap.mmap(-1, 64 << 20) as held:  # memory of its own, where an allocator may have some to spare
        held[:] = bytes(1) * len(held)
        assert resident(os.getpid()) - before > 60 << 20
        assert len(held) < resident(os.getpid()) < memory_total()
        most = resident(os.getpid())
    assert resident(os.getpid()) < most - (60 << 20)
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert resident(gone.pid) == 0


def test_a_signal_is_named_also_where_the_system_has_no_name_for_it():
    assert killed(signal.SIGTERM, 0, 0) == "killed by SIGTERM"
    assert killed(40, 0, 0) == "killed by signal 40"  # between SIGRTMIN and SIGRTMAX


def test_memory_that_was_freed_is_taken_again_without_the_kernel():
    script = (
        "import sys, resource\n"
        "from scalectl.core.machine import keep_freed_memory\n"
        "if sys.argv[1:]: keep_freed_memory()\n"
        "for _ in range(100): held = [b'x' * (1 << 20) for _ in range(4)]; del held\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    with_it, without = (
        int(subprocess.run([sys.executable, "-c", script, *flag], check=True, capture_output=True, text=True).stdout)
        for flag in (["keep"], [])
    )
    assert without - with_it > 10_000  # of 102,400 pages
