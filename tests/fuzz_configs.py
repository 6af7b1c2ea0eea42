"""Configurations drawn at random: each ends in a result or in one line of error.

    python -m tests.fuzz_configs --configs 2000

Flags of `train`, `frontier`, `codecs` and `bench`, and values of a model folder's `config.json`.
Each runs in a process that is started again after a crash, or after a configuration that takes too
long. Says which did not end as they should, and ends with status 1 where any did.
"""

import argparse
import contextlib
import dataclasses
import inspect
import io
import json
import queue
import random
import tempfile
import threading
import time
import traceback
from pathlib import Path

from tests.helpers.processes import python

ROLES = "hamlet/HAMLET, hamlet/HORATIO, macbeth/MACBETH, macbeth/BANQUO"
SMALL = {
    **{"rounds": "1", "clients": "2", "local_steps": "1", "batch": "2", "seq": "16"},
    **{"hidden_size": "16", "intermediate_size": "24", "num_hidden_layers": "1"},
    **{"num_attention_heads": "2", "num_key_value_heads": "1"},
    "data": f"shakespeare(roles='{ROLES}')",
}
"""Flags of a run that takes a few seconds; a model folder brings its own sizes."""
SIZES = [name for name in SMALL if name.endswith(("_size", "_layers", "_heads"))]
NUMBERS = ["-1", "0", "1", "3", "0.5", "1e9", "nan", "inf", "x", "", "None", "1000000000000"]
NUMBERS += [str(2**31), str(2**63), str(10**30)]
CODECS = [
    *("identity()", "eden(bits=1)", "top_k(fraction=0.1)", "error_feedback(sign())"),
    *("ef21(top_k(fraction=0.5))", "eden(bits=nan)", "eden(bits=-1)", "top_k(fraction=1e-300)"),
    *("chain()", "chain(top_k(fraction=0.1), eden(bits=1))", "error_feedback(ef21(sign()))"),
    *("count_sketch(rows=3, columns=1000000000000)", "entropy_coded(rate=1e9)", "eden", "eden("),
    *("power_sgd(rank=100000000000)", "trellis(rate=0)", "__import__('os')", "a" * 20000, "\0"),
]
OPTIMIZERS = ["sgd(0.1)", "adam(-1)", "adam(1e30)", "sgd(nan)", "sgd('x')", "sgd", "chain()"]
OPTIMIZERS += ["adamw(0.1, weight_decay=1e300)", "sgd(0.1, momentum=2)", "clip_by_global_norm(0)"]
POOLS = {
    "rounds": ["-1", "0", "1", "2", "0.5", "x", "nan", ""],
    "algorithm": [
        *(
            "fed_avg()",
            "fed_prox(mu=-1)",
            "fed_prox(mu=0.1)",
            "scaffold()",
            "fed_sgd()",
            "fed_md()",
        ),
        *("fed_kseed(seeds=0)", "decomfl(draws=1)", "fed_avg(x=1)", "fed_agv()", "flora()", ""),
        *(
            "fed_sa_lora()",
            "split_lora()",
            "ditto(mu=inf)",
            "sparse_loco()",
            "fed_rep(personal='(')",
        ),
        *("fed_bpt()", "fed_avg(uplink=1)", "fed_dyn(alpha=0)", "demo(rate=1e400)", "diloco()"),
    ],
    "uplink": CODECS,
    "downlink": CODECS,
    "aggregate": [
        "weighted_mean()",
        "median()",
        "krum(f=1)",
        "bucketing(median(), size=0)",
        "dp_fed_avg(clip=1, noise_multiplier=1)",
        "dp_fed_avg(clip=1, noise_multiplier=1, divisor=2)",
        "adaptive_dp_fed_avg(noise_multiplier=0.01)",
        "bucketing(dp_fed_avg(clip=1, noise_multiplier=1))",
        "1",
        "",
    ],
    "gradients": [
        "dp_sgd(clip=1, noise_multiplier=1)",
        "dp_sgd(clip=1, noise_multiplier=1, rate=0.1, microbatch=1)",
        "dp_sgd()",
        "x",
    ],
    "attack": [
        "sign_flip(fraction=0.5)",
        "alie(fraction=0.5)",
        "alie(fraction=2)",
        "alie()",
        "x",
        "backdoor(fraction=0.5, trigger='ab', target='c')",
    ],
    "sampler": [
        "poisson(0.5)",
        "poisson(0)",
        "cyclic(1)",
        "cyclic(9)",
        "without_replacement()",
        "x",
    ],
    "delta": ["0.001", "0.5", "0", "1", "nan", "x"],
    "secret": [str(Path(__file__).parent / "helpers/a_secret.txt"), __file__, "no such file", ""],
    "prediction": ["0", "0.5", "1", "2", "nan", "-inf", "x"],
    "client_axis": [
        "vmap()",
        "scan()",
        "chunked(1)",
        "chunked(0)",
        "chunked(10**9)",
        "auto()",
        "x",
    ],
    "client_optimizer": OPTIMIZERS,
    "server_optimizer": OPTIMIZERS,
    "adapter": [
        *(
            "full()",
            "lora(rank=2)",
            "lora(rank=0)",
            "lora(rank=1000000000000)",
            "dora(rank=2)",
            "x",
        ),
        *("lora(rank=2, alpha=nan)", "prompt(tokens=2)", "prompt(tokens=1000000000000)", "ia3()"),
        *("nf4_base(lora(rank=2))", "lora(rank=2, targets='nothing')", "lora(rank=2, targets='[')"),
    ],
    "task": ["language_model()", "preference()", "preference(beta=-1)", "x()", "classification()"],
    "data": [
        *(
            "shakespeare()",
            "shakespeare(roles='x')",
            "shakespeare(at_least=1e300)",
            "chitchat()",
            "",
        ),
        *(
            "jsonl('/nowhere', fields(text='a'))",
            "jsonl('/dev/null', fields(text='a'))",
            "fedit('/')",
        ),
        *("iid(shakespeare(), clients=0, seed=0)", "iid(shakespeare(), clients=10, seed=-1)"),
        *("dirichlet(shakespeare(), clients=3, alpha=nan, seed=0)", "parquet('/dev/null')", "x"),
    ],
    "population": [*NUMBERS, "4"],
    "long": ["split", "truncate", "error", "drop", "x"],
    "model": ["/nowhere", "/dev/null", "smollm3", "", ".", "a/b/c"],
    "faults": ["faults()", "faults(dropout=0.5)", "faults(dropout=2)", "faults(partial=nan)", "x"],
    "link": ["link(uplink=1e6, downlink=1e6)", "link(uplink=0, downlink=1)", "links('/nowhere')"],
    "deadline": ["deadline(first=1)", "deadline(seconds=0)", "deadline(seconds=inf)", "deadline()"],
    "availability": ["diurnal(share=0.5)", "diurnal(share=nan)", "trace('/nowhere')", "x"],
    "dtype": ["float32", "bfloat16", "float16", "x"],
    "remat": [None],
}
"""Values to draw for a flag; `NUMBERS` where it has none here. None is a flag without a value."""
JSON = [
    *(float("inf"), float("-inf"), float("nan"), -1, 0, 0.5, 1, 3, 1e300, 2**31, 2**63, 10**400),
    *(True, False, None, "", "x", [], [0], {}, {"rope_type": "linear", "factor": float("nan")}),
]
ENCODER, TEXTS = "model-bert", "texts.jsonl"
"""The folder of an encoder, and the file of the labelled texts that it trains on."""
LITERALS = ["-1", "0", "1", "2", "0.5", "1e999", "1000000000000", "None", "True", "'x'", "1e-30"]
"""Values of the arguments of a call."""
INNER = {"uplink": "eden(bits=2)", "downlink": "eden(bits=2)", "adapter": "lora(rank=2)"}
"""What a call around another has inside."""
LONGEST = 180.0
"""Seconds after which a configuration counts as one that does not end."""
IN_ONE = 250
"""Configurations of a process: each compiled program takes some of its memory maps."""


def drawn(draw, names, folders, calls):
    """The words of a command."""
    kind = draw.random()
    if kind < 0.06:
        flags = {"entries": draw.choice(NUMBERS[:3]), "codecs": draw.choice(CODECS[4:])}
        return ["codecs", "--no-means", *_words(flags)]
    if kind < 0.1:
        return ["bench", "--rungs", draw.choice(["x", ""]), "--repeats", draw.choice(NUMBERS)]
    flags = dict(SMALL)
    if kind < 0.4:
        flags = {name: value for name, value in flags.items() if name not in SIZES}
        source = draw.choice(sorted(folders.glob("model-*")))
        if source == folders / ENCODER:
            flags |= encoder_flags(folders)
        if draw.random() < 0.2:
            flags[draw.choice(["batch", "seq", "local_steps"])] = draw.choice(NUMBERS)
        flags["model"] = str(_folder(draw, source, folders))
    else:
        for name in draw.sample(names, draw.choice([1, 1, 2, 3])):
            flags[name] = _value(draw, name, calls)
    if draw.random() < 0.1:
        return ["frontier", *_words(flags), "--codecs", _value(draw, "uplink", calls)]
    return ["train", *_words(flags)]


def _value(draw, name, calls):
    """A value of a flag: one of those above, or a call of a factory with drawn arguments."""
    if name not in calls or draw.random() < 0.4:
        return draw.choice(POOLS.get(name, NUMBERS))
    factory_name = draw.choice(sorted(calls[name]))
    arguments = []
    for parameter in inspect.signature(calls[name][factory_name]).parameters.values():
        needed = parameter.default is parameter.empty
        if parameter.kind is not parameter.KEYWORD_ONLY:
            if needed and name in INNER and parameter.name not in ("loss", "like"):
                arguments.append(INNER[name])
        elif (needed and name in INNER) or (
            isinstance(parameter.default, int | float | str | None) and draw.random() < 0.4
        ):
            arguments.append(f"{parameter.name}={draw.choice(LITERALS)}")
    return f"{factory_name}({', '.join(arguments)})"


def factories():
    """The factories that a flag may name, by its field."""
    from fedjax_llm.runs.registries import names_by_field  # noqa: PLC0415

    return {
        field: known
        for fields, known in names_by_field().items()
        for field in fields.split(", ")
        if field not in ("data", "task", "client_axis")
    }


def _words(flags):
    words = []
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is None else [value])]
    return words


def _folder(draw, source, folders):
    """A model folder of which at most two values of `config.json` are changed."""
    values = json.loads((source / "config.json").read_text())
    for name in draw.sample(sorted(values), draw.choice([0, 1, 1, 2])):
        if isinstance(values[name], dict) and draw.random() < 0.7:
            values[name][draw.choice(sorted(values[name]))] = draw.choice(JSON)
        else:
            values[name] = draw.choice(JSON)
    target = folders / "changed"
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        (target / path.name).unlink(missing_ok=True)
        (target / path.name).symlink_to(path)
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps(values))
    return target


def encoder_flags(folders):
    """Flags of a run that trains an encoder on labelled texts, beside the model."""
    where = f"'{folders / TEXTS}', fields(text='text', label='label', client='who')"
    return {"data": f"jsonl({where})", "task": "classification(labels=2)"}


def write_models(folders):
    """Small models of four families of decoders and an encoder, with a tokenizer and texts."""
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    from fedjax_llm.models import Encoder, EncoderConfig, config_from, config_to, save  # noqa: PLC0415
    from tests.helpers import families  # noqa: PLC0415
    from tests.helpers.fast_tokenizers import byte_level  # noqa: PLC0415

    tokenizer = byte_level()
    for name in ("llama3", "qwen2_window", "gemma3", "gpt2"):
        values = dict(families.FAMILIES[name]) | {"vocab_size": len(tokenizer)}
        layers = "n_layer" if name == "gpt2" else "num_hidden_layers"
        config = config_from({**values, layers: 2})
        assert config_to(config)
        save(folders / f"model-{name}", config, families.params(config), tokenizer=tokenizer)
    bert = EncoderConfig(
        vocab_size=len(tokenizer),
        **{"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2},
        max_position_embeddings=24,
    )
    state = jax.jit(lambda: nnx.state(Encoder(bert, rngs=nnx.Rngs(7)), nnx.Param))()
    save(folders / ENCODER, bert, nnx.to_pure_dict(state), tokenizer=tokenizer)
    with (folders / TEXTS).open("w", encoding="utf-8") as file:
        for number in range(40):
            label, who = ("cat", "mat")[number % 2], f"person {number // 2 % 4}"
            row = {"text": f"{number} {label}", "label": label, "who": who}
            file.write(json.dumps(row) + "\n")


def ended(words, out):
    """Run a command in this process: "result", "refused", or what is wrong."""
    from fedjax_llm.cli.main import main  # noqa: PLC0415

    said, printed, status = io.StringIO(), io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            main([*words, "--out", str(out)])
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        return traceback.format_exc()[-1500:]
    error = said.getvalue()
    if status == 0:
        return "result"
    if status == 2 and error.startswith("fedjax-llm: ") and error.count("\n") == 1:
        return "refused"
    return f"status {status}: {error[-800:]!r}"


def flag_names():
    """Names of the flags that a run has."""
    from fedjax_llm.runs import RunConfig  # noqa: PLC0415

    names = [field.name for field in dataclasses.fields(RunConfig) if field.name != "decoder"]
    return [*names, *SIZES, "vocab_size", "rope_theta", "rms_norm_eps", "dtype", "remat"]


def work(first, last, seed, folders):
    """Run the configurations from `first` to before `last`, one line of JSON before and after."""
    names, calls = flag_names(), factories()
    for number in range(first, last):
        draw = random.Random(f"{seed}/{number}")  # noqa: S311
        words = drawn(draw, names, folders, calls)
        print(json.dumps({"number": number, "words": words}), flush=True)
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps({"ended": ended(words, Path(out) / "out")}), flush=True)


class Worker:
    """A process that runs configurations, and its lines."""

    def __init__(self, first, last, seed, folders):
        self.process = python(
            *("-m", "tests.fuzz_configs", "--worker"),
            *map(str, (first, last, seed, folders)),
            env={
                "JAX_COMPILATION_CACHE_DIR": str(folders / "programs"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            },
        )
        self.lines = queue.Queue()
        self.errors = []
        self.threads = [threading.Thread(target=each) for each in (self._read, self._drain)]
        for thread in self.threads:
            thread.start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(json.loads(line))
        self.lines.put(None)

    def _drain(self):
        with self.process.stderr as lines:
            for line in lines:
                self.errors = [*self.errors[-20:], line]

    def end(self):
        self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join()

    def next(self):
        """The next line; None where the process is over or takes too long."""
        try:
            return self.lines.get(timeout=LONGEST)
        except queue.Empty:
            return None


def fuzz(configs, seed, folders, say=print):
    """Run configurations; what went wrong, and how many ended in which way."""
    wrong, counts, number = [], {"result": 0, "refused": 0}, 0
    while number < configs:
        end = min(configs, number + IN_ONE)
        worker = Worker(number, end, seed, folders)
        while number < end and (begun := worker.next()) is not None:
            started = time.monotonic()
            over = worker.next()
            how = over["ended"] if over else f"took {LONGEST} s, or crashed: {worker.errors[-3:]}"
            number += 1
            if how in counts:
                counts[how] += 1
            else:
                wrong.append((begun["words"], how))
                say(f"{begun['number']}: {begun['words']}\n{how}\n", flush=True)
            if number % 50 == 0:
                say(f"{number}/{configs} {counts}", flush=True)
            if over is None or time.monotonic() - started > LONGEST:
                break
        worker.end()
    return wrong, counts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=4)
    args = parser.parse_args()
    if args.worker:
        first, last, seed, folders = args.worker
        work(int(first), int(last), int(seed), Path(folders))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        wrong, counts = fuzz(args.configs, args.seed, Path(folder))
    print(f"{counts}; {len(wrong)} of {args.configs} ended in neither")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
