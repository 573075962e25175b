"""The peak of a device is that of large products, and is measured once."""

import time

import pytest
import torch

from scalectl.train.peak import peak_flops


@pytest.fixture
def one_thread():
    held = torch.get_num_threads()
    torch.set_num_threads(1)
    peak_flops.cache_clear()
    yield
    torch.set_num_threads(held)
    peak_flops.cache_clear()


def test_the_peak_is_what_a_large_product_reaches_and_is_measured_once(one_thread):
    tries = []
    for _ in range(3):
        peak_flops.cache_clear()
        a = torch.randn(1024, 1024)
        a @ a
        begin = time.perf_counter()
        a @ a
        tries.append(2 * 1024**3 / (time.perf_counter() - begin) / peak_flops("cpu", "fp32"))
    assert min(abs(ratio - 1) for ratio in tries) < 0.3
    begin = time.perf_counter()
    assert peak_flops("cpu", "fp32") == peak_flops("cpu", "fp32")
    assert time.perf_counter() - begin < 0.001


def test_it_is_that_of_one_thread(one_thread):
    whole = peak_flops("cpu", "fp32", 1)
    assert whole / 4 == pytest.approx(peak_flops("cpu", "fp32", 4), rel=0.5)  # the same products, four to share them


@pytest.mark.gpu
def test_a_gpu_does_more_in_bf16_than_in_fp32():
    assert peak_flops("cuda", "bf16") > 2 * peak_flops("cuda", "fp32")
