"""How fast, and in how much memory, does a large file of chats become tokens on disk?

    python experiments/large_chats.py                    1 GB of JSON lines; ten minutes
    python experiments/large_chats.py --megabytes 100

The chats of chitchat, each with a number put before its first message, again and again until the
file is large enough, of 1,000 clients. A process of its own reads and tokenises them with
SmolLM2's tokenizer. The tokenizer alone encodes the same chats, rendered beforehand, in as many
threads.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedjax_llm.data import Fields, chitchat, jsonl, tokenize
from fedjax_llm.data.tokenisation.chat import DATE
from fedjax_llm.data.tokenisation.encode import template_of
from fedjax_llm.model_files.opening import open_model_files

CLIENTS, SAMPLE = 1000, 2000


def write(path: Path, megabytes: int) -> int:
    """Write the chats; return their number."""
    talks = [example.text for each in chitchat().values() for example in each]
    size = 0
    with path.open("w") as file:
        for number, talk in enumerate(itertools.cycle(talks)):
            messages = [{"role": m.role, "content": m.content} for m in talk]
            messages[0] = messages[0] | {"content": f"{number}: {messages[0]['content']}"}
            row = {"user": f"client {number % CLIENTS}", "messages": messages}
            size += file.write(json.dumps(row) + "\n")
            if size >= megabytes * 10**6:
                return number + 1
    raise AssertionError


def memory() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def tokenised(path: Path, folder: Path) -> dict:
    """Read and tokenise a file; times, sizes and memory."""
    tokenizer = open_model_files("smollm2").load_tokenizer()
    before, wall, cpu = memory(), time.perf_counter(), time.process_time()
    records = jsonl(path, Fields(messages="messages", client="user"))
    opened = time.perf_counter() - wall
    corpus = tokenize(records, tokenizer, seq=1024, long="split", cache=folder)
    return {
        "opened": opened,
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "tokens": len(corpus.tokens),
        "memory": memory() - before,
    }


def tokenizer_alone() -> tuple[float, float]:
    """Wall and CPU seconds in which the tokenizer encodes one chat."""
    tokenizer = open_model_files("smollm2").load_tokenizer()
    template = template_of(tokenizer, None, date=DATE)
    talks = [example.text for each in chitchat().values() for example in each][:SAMPLE]
    texts = [
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in talk],
            chat_template=template,
            tokenize=False,
        )
        for talk in talks
    ]
    tokenizer.backend_tokenizer.encode_batch(texts[:64])  # starts its threads
    wall, cpu = time.perf_counter(), time.process_time()
    tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return (time.perf_counter() - wall) / SAMPLE, (time.process_time() - cpu) / SAMPLE


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--child", nargs=2, type=Path)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(tokenised(*args.child)))
        return
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name, "chats.jsonl"), Path(name, "tokens")
        chats = write(path, args.megabytes)
        command = [sys.executable, __file__, "--child", str(path), str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        found = json.loads(done.stdout)
    wall, cpu = tokenizer_alone()
    print(f"{args.megabytes} MB of JSON lines, {chats} chats, {found['tokens']} tokens")
    print(f"opened and checked in {found['opened']:.0f} s, all in {found['seconds']:.0f} s")
    print(f"{found['memory']:.0f} MB of memory beside Python, its packages and the tokenizer")
    ours, ours_cpu = found["seconds"] / chats, found["cpu"] / chats
    print(f"ms a chat: {ours * 1e3:.2f} ({ours_cpu * 1e3:.2f} of CPU)")
    print(f"ms a chat of the tokenizer alone: {wall * 1e3:.2f} ({cpu * 1e3:.2f} of CPU)")
    print(f"times the tokenizer alone: {ours / wall:.2f} (in CPU {ours_cpu / cpu:.2f})")


if __name__ == "__main__":
    main()
