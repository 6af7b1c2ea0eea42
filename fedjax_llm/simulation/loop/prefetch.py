"""The next thing made while one is in use."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetched(make: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
    """`make(item)` of each item, in order, each made in a thread while the one before is in use.

    Never more than one is ahead. An error that making one raises comes up where that one is asked
    for. The thread ends with the iterator: at its end, at an error, or when it is closed, after
    what it is making then.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    ahead: deque[Future[Made]] = deque()
    finalizing = sys.is_finalizing  # a local name outlives its module at the interpreter's end
    try:
        for item in items:
            ahead.append(pool.submit(make, item))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        if not finalizing():  # else the thread has been joined, and what it needs is gone
            pool.shutdown(cancel_futures=True)
