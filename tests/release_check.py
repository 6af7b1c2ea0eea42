"""Build wheel and sdist, and have each test itself in a bare environment.

    python -m tests.release_check --python python3.13 --constraint tests/colab.txt

Builds into `runs/release/dist`, makes a new environment, installs the wheel with its dependencies
and nothing else, and runs `tests/release_self_test.py` from a folder outside of the clone; then
does the same with the sdist in place of the wheel.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SELF_TEST = ROOT / "tests/release_self_test.py"
EXPECTED = (
    "fedjax_llm/__init__.pyi",
    "fedjax_llm/py.typed",
    "fedjax_llm/studies/report/assets/body.html",
    "fedjax_compression/__init__.py",
    "fedjax_compression/py.typed",
)
"""What a wheel must have beside its modules."""


def run(*words, cwd=ROOT):
    """Run a command; its output is shown, and a failure ends the check."""
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=cwd)  # noqa: S603


def check_wheel(wheel):
    """Refuse a wheel that lacks a file, or has one that is not the packages'."""
    names = zipfile.ZipFile(wheel).namelist()
    packages = {
        str(path.relative_to(folder))
        for folder, package in ((ROOT, "fedjax_llm"), (ROOT / "compression", "fedjax_compression"))
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in names if ".dist-info/" not in name}
    wrong = sorted(({*EXPECTED} | packages) ^ inside)
    if wrong:
        sys.exit(f"{wheel.name}: expected the files of both packages, got more or less: {wrong}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "runs/release")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--constraint", type=Path)
    args = parser.parse_args()
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out / "dist")
    (wheel,), (sdist,) = (list((out / "dist").glob(kind)) for kind in ("*.whl", "*.tar.gz"))
    check_wheel(wheel)
    python = out / "bare/bin/python"
    run(args.python, "-m", "venv", out / "bare")
    pins = ("--constraint", args.constraint.resolve()) if args.constraint else ()
    for built in (wheel, sdist):
        install = (python, "-m", "pip", "install", "--quiet", "--no-compile", *pins)
        if built is sdist:
            install = (*install, "--force-reinstall", "--no-deps")
        run(*install, built)
        with tempfile.TemporaryDirectory() as elsewhere:
            run(python, "-I", SELF_TEST, cwd=elsewhere)
        print(f"{built.name}: tests itself in a bare environment", flush=True)


if __name__ == "__main__":
    main()
