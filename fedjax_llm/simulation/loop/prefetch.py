"""Makes the next item in a thread while the current one is in use."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetched(make: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
    """Yield `make(item)` for each item, in order; a thread makes each while the last is in use.

    At most one result is made ahead. An error in `make` is raised when its result is requested. The
    thread ends with the generator (exhausted, failed or closed), after the item that it is making.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    pending: deque[Future[Made]] = deque()
    is_finalizing = sys.is_finalizing  # a local name: at interpreter exit the module may be gone
    try:
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        if not is_finalizing():  # at interpreter exit the thread has been joined already
            pool.shutdown(cancel_futures=True)
