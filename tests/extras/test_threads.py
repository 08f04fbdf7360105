"""With the extra `threads` a fit takes one thread of NumPy's, and the process keeps its own number."""

from __future__ import annotations

import os
import subprocess
import sys

from graphopt.runtime.limits.threads import BLAS_VARIABLES

SHOWN = """
import numpy
from threadpoolctl import threadpool_info, threadpool_limits
from graphopt.runtime.limits.threads import single

def number():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

with threadpool_limits(3, user_api="blas"):
    before = number()
    with single():
        assert number() == {1}, number()
    assert number() == before != {1}, (number(), before)
"""


def test_one_thread_within_and_as_many_as_before_after_it() -> None:
    free = {name: value for name, value in os.environ.items() if name not in BLAS_VARIABLES}
    subprocess.run([sys.executable, "-c", SHOWN], env=free, check=True)
