import os
import subprocess

from scalectl.core.machine import device_name, memory_total, resident


def test_a_device_has_a_name_without_torch():
    assert device_name("cpu")


def test_memory_of_a_process_is_what_it_holds_and_none_once_it_is_gone():
    before = resident(os.getpid())
    held = b"x" * (64 << 20)
    assert 60 << 20 < resident(os.getpid()) - before < 80 << 20
    assert len(held) < resident(os.getpid()) < memory_total()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert resident(gone.pid) == 0
