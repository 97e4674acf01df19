"""One BLAS thread per rank: the ranks are the parallelism, and more threads than cores make every product wait."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_SETTINGS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def one_thread() -> AbstractContextManager[Any]:
    """Hold BLAS to one thread inside a `with` block, for the whole process; a setting in the environment prevails."""
    if any(name in os.environ for name in _SETTINGS):
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")
