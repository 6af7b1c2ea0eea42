"""What does a secure sum cost a client and the server?

    python experiments/secure_sums.py

First the rate at which masks are added, and then a client's CPU seconds and bytes: all its steps
with real messages of as many neighbours as the degree, 16 bits an integer, degrees and thresholds
by `choose_degree` for 5 % corrupt clients and 5 % that drop out, and all pairs of 100 clients. Only
the client's own work is timed. Then whole rounds in one process, for the server's share: its CPU
seconds with nobody and with a twentieth of the clients gone after they shared. The least of three
tries; some three minutes.

Result: `docs/privacy.md`.
"""

import argparse
import os
import time

import numpy as np

from fedjax_llm.secure_aggregation import Client, Server, Setup, choose_degree
from fedjax_llm.secure_aggregation.client import STEPS
from fedjax_llm.secure_aggregation.messages import Survivors, write
from fedjax_llm.secure_aggregation.primitives import add_stream


def least(measured, tries):
    """The measurement whose time is the least."""
    return min((measured() for _ in range(tries)), key=lambda each: each[0])


def timed(function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    return time.process_time() - start, result


def masks(dtype):
    """Gigabytes of stream a second, added to 16 million integers."""
    total = np.zeros(2**24, dtype)
    seconds, _ = least(lambda: timed(add_stream, total, bytes(16)), 3)
    return total.nbytes / seconds / 1e9


def client_cost(clients, degree, threshold, entries):
    """CPU seconds of each step of one client, and its bytes up and down."""
    setup = Setup(os.urandom(16), entries, 16, clients, degree, threshold)
    server, peers = Server(setup), [Client(setup, u) for u in range(degree + 1)]
    seconds, sent, received = dict.fromkeys(STEPS, 0.0), 0, 0

    def do(step, *given):
        nonlocal sent, received
        seconds[step], message = timed(getattr(peers[0], step), *given)
        sent, received = sent + len(message), received + sum(map(len, given[:1]))
        return message

    server.receive(do("advertise"))
    for peer in peers[1:]:
        server.receive(peer.advertise())
    inbox = server.close()
    server.receive(do("share", inbox[0]))
    for peer in peers[1:]:
        server.receive(peer.share(inbox[peer.number]))
    integers = np.random.default_rng(0).integers(-(2**15), 2**15, entries)
    do("mask", server.close()[0], integers)
    near = list(range(1, degree + 1))
    do("unmask", write(Survivors, setup, 0, neighbors=near, survived=[True] * degree))
    return sum(seconds.values()), (seconds, sent, received, setup.width)


def server_cost(clients, degree, threshold, entries, gone):
    """CPU seconds of the server in a round that `gone` clients leave after they shared."""
    setup = Setup(os.urandom(16), entries, 16, clients, degree, threshold)
    server, peers = Server(setup), {u: Client(setup, u) for u in range(clients)}
    integers = np.zeros(entries, np.int64)
    inbox, spent = dict.fromkeys(peers), 0.0
    for step in STEPS:
        for u, data in inbox.items():
            if step == "mask" and u < gone:
                continue
            given = [data, integers] if step == "mask" else [data] if data else []
            message = getattr(peers[u], step)(*given)
            spent += timed(server.receive, message)[0]
        seconds, inbox = timed(server.close)
        spent += seconds
    return spent, None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--entries", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    args = parser.parse_args()
    for dtype in (np.uint16, np.uint32):
        print(f"masks in words of {8 * np.dtype(dtype).itemsize} bits: {masks(dtype):.2f} GB/s")
    chosen = [(n, *choose_degree(n, corrupt=0.05, dropout=0.05)) for n in (100, 1000, 10_000)]
    client_cost(10, 4, 2, 1000)  # imports and tables, before anything is timed
    head = ("clients", "degree, threshold", "entries", "keys, shares s", "masks s")
    print(f"\n| {' | '.join((*head, 'sent', 'over', 'received'))} |")
    print("|---|---|---|---|---|---|---|---|")
    for n, degree, threshold in [*chosen, (100, 99, 67)]:
        for d in args.entries:
            _, (seconds, sent, received, width) = least(
                lambda n=n, k=degree, t=threshold, d=d: client_cost(n, k, t, d), args.tries
            )
            own = d * width / 8
            print(
                f"| {n:,} | {degree}, {threshold} | {d:,} "
                f"| {sum(seconds.values()) - seconds['mask']:.3f} | {seconds['mask']:.3f} "
                f"| {sent:,} | {sent / own:.4f} | {received:,} |",
                flush=True,
            )
    print("\n| clients | degree, threshold | entries | gone | server s |\n|---|---|---|---|---|")
    n, degree, threshold = chosen[0]
    for d in args.entries[:2]:
        for gone in (0, n // 20):
            spent, _ = least(
                lambda d=d, gone=gone: server_cost(n, degree, threshold, d, gone), args.tries
            )
            print(f"| {n} | {degree}, {threshold} | {d:,} | {gone} | {spent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
