"""Memory settings of the process, each tried in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

KEEP = """
import numpy, psutil, sys  # numpy only for the sizes
from concurrent.futures import ThreadPoolExecutor
from seamscope.process_memory import keep_freed_memory

process = psutil.Process()

def faults_of_a_layer():
    b"x" * 40_000_000
    before = faults()
    for _ in range(10):
        b"x" * 40_000_000
    return faults() - before

def faults():
    return int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[7])

def resident():
    return process.memory_info().rss / 1e6

mapped = faults_of_a_layer()
if not keep_freed_memory():
    sys.exit(77)
kept = faults_of_a_layer()
with ThreadPoolExecutor(1) as pool:
    in_thread = pool.submit(faults_of_a_layer).result()
before = resident()
sizes = numpy.random.default_rng(0).integers(1, 30, 300) * 1_000_000
for size in sizes:
    b"x" * int(size)
grown = resident() - before
print(mapped, kept, in_thread, grown)
"""


def printed_by(program: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if result.returncode == 77:
        pytest.skip("this system has no such setting")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_kept_memory_is_reused_by_all_threads_and_stays_bounded():
    mapped, kept, in_thread, grown = map(float, printed_by(KEEP).split())
    assert mapped > 50_000  # 10 x 40 MB in pages of 4 kB
    assert kept < 2_000
    assert in_thread < 10_000
    assert grown < 40  # MB: the largest block, not the sum


HUGE = """
import resource, sys, torch
from seamscope.process_memory import use_huge_pages, _HUGE

def faults_of_a_layer():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if not _HUGE.exists() or "[madvise]" not in _HUGE.read_text():
    sys.exit(77)
print(int(use_huge_pages()), faults_of_a_layer())
"""


def test_huge_pages_save_page_faults_when_asked_for_in_time():
    works, faults = map(int, printed_by(HUGE).split())
    assert works
    assert faults < 2_500  # of 24,000
    works, faults = map(int, printed_by("import torch; torch.ones(1)" + HUGE).split())
    assert not works
    assert faults > 20_000
