"""Work that few do at once."""

import threading
import time

from fedjax_llm.locks import one_of


def test_never_more_within_than_there_are_places(tmp_path):
    within, most, lock = [], [], threading.Lock()

    def work(number):
        with one_of(2, tmp_path):
            with lock:
                within.append(number)
                most.append(len(within))
            time.sleep(0.05)
            with lock:
                within.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(most) == 5  # all came
    assert max(most) == 2


def test_an_error_leaves_the_place(tmp_path):
    for _ in range(2):
        try:
            with one_of(1, tmp_path):
                raise RuntimeError
        except RuntimeError:
            pass
    with one_of(1, tmp_path):
        pass
