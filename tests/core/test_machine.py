import mmap
import os
import subprocess

from scalectl.core.machine import device_name, memory_total, resident


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
