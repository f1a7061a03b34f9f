PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_VENV := .venv-docs
DOCS_BIN := $(DOCS_VENV)/bin
DOCS_STAMP := $(DOCS_VENV)/.installed
SUPPLY_VENV := .venv-supply
SUPPLY_BIN := $(SUPPLY_VENV)/bin
LOCK := .ci/requirements.txt
# Parallel test workers bring their own parallelism; a thread pool in each only makes them wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

.PHONY: demo test test-slow test-all coverage check format bench bench-compare evaluation conformance networks mutations reliability reports-index cli-reference docs lock audit sbom release-check test-lowest clean

# torchattacks and robustbench are pure Python; pip would pin requests, timm and others back to please them, so they
# come last, alone, and in this order: both bring a top-level package `robustbench`, and the one installed last wins.
# With LOCKED=1 every file is of the version, and has the hash, that .ci names.
$(STAMP): pyproject.toml $(LOCK)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement .ci/torchattacks.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement .ci/robustbench.txt
else
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'torchattacks>=3.5'
	$(BIN)/python -m pip install --quiet --no-deps 'robustbench>=1.1'
endif
	@touch $@

demo: $(STAMP)
	@rm -rf reports/demo
	$(BIN)/rlr-eval demo --out reports/demo

test: $(STAMP)
	$(PYTEST) -m 'not slow'

# One worker more than cores: many of these tests wait for commands that they started.
test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --maxprocesses 8 -m slow --durations=25

test-all: test test-slow

# What of the package, its branches included, the default tests run.
coverage: $(STAMP)
	$(PYTEST) -m 'not slow' --cov --cov-report=term --cov-fail-under=92

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --verifytypes robust_lowrank --ignoreexternal
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: $(STAMP)
	$(BIN)/python -m tests.conformance

# What becomes of the matrices of known networks: the table of docs/networks.md.
networks: $(STAMP)
	$(BIN)/python -m tests.networks

# Those of speed, kept in runs/benchmarks/results.json; one by name: make bench NAME=training (with MNIST and CIFAR-10 in RLR_DATA_DIR).
# HISTORY=benchmarks/history.jsonl adds a line to that file.
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(NAME) $(if $(HISTORY),--history $(HISTORY))

# Before and after a change: make bench-compare OLD=before.json NEW=runs/benchmarks/results.json fails where a ratio grew by 10 %.
# Either may be a history, which stands for the newest table of each benchmark in it.
bench-compare: $(STAMP)
	@test -n "$(OLD)" -a -n "$(NEW)" || { echo "Which files? make bench-compare OLD=FILE NEW=FILE"; exit 2; }
	$(BIN)/python -m benchmarks.results "$(OLD)" "$(NEW)"

# The tables of docs/evaluation.md: our engines beside upstream's, with the images of MNIST and CIFAR-10 at hand.
evaluation: $(STAMP)
	@test -n "$(MNIST)" -a -n "$(CIFAR10)" || { echo "Where are the images? make evaluation MNIST=DIR CIFAR10=DIR"; exit 2; }
	$(BIN)/python -m benchmarks.upstream --mnist "$(MNIST)" --cifar10 "$(CIFAR10)"

# One deliberate defect after another, each of which the tests must notice.
mutations: $(STAMP)
	$(BIN)/python -m tests.mutations

# Kills, full disks and damaged files, a quarter of an hour and more: the table of docs/reliability.md.
reliability: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability

# reports/README.md from the JSON files of the reports beside it.
reports-index: $(STAMP)
	$(BIN)/python -m robust_lowrank.reporting.index reports

# docs/cli.md from the commands themselves.
cli-reference: $(STAMP)
	$(BIN)/python -m typer robust_lowrank.cli.app utils docs --name rlr-eval --title "The command line" --output docs/cli.md

# The documentation tools read the source without importing it, so their environment needs neither torch nor the package.
$(DOCS_STAMP): docs/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(DOCS_BIN)/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_BIN)/python -m pip install --quiet --requirement docs/requirements.txt
	@touch $@

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(DOCS_BIN)/mkdocs build --strict --quiet
	@echo "The site is in site/: open site/index.html"

$(SUPPLY_VENV):
	test -x $(SUPPLY_BIN)/python || $(PYTHON) -m venv $(SUPPLY_VENV)
	$(SUPPLY_BIN)/python -m pip install --quiet 'uv>=0.8' 'pip-audit>=2.9' 'cyclonedx-bom>=7' 'build>=1.2' 'twine>=6'
	@touch $@

# The versions and hashes that CI installs: the newest that pyproject.toml allows.
lock: $(SUPPLY_VENV)
	printf 'hatchling>=1.26\neditables>=0.5\n' | $(SUPPLY_BIN)/uv pip compile pyproject.toml - --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --quiet --output-file $(LOCK)

# Known vulnerabilities of what CI installs, where the database can be reached; what cannot be looked up is named.
audit: $(SUPPLY_VENV)
	$(SUPPLY_BIN)/pip-audit --requirement $(LOCK) --disable-pip --require-hashes

# What an environment consists of, as CycloneDX.
sbom: $(STAMP) $(SUPPLY_VENV)
	@mkdir -p build
	$(SUPPLY_BIN)/cyclonedx-py environment --output-format JSON --output-file build/sbom.json $(BIN)/python
	@echo "build/sbom.json"

# What docs/releasing.md asks for before a tag is pushed; nothing is uploaded.
release-check: $(SUPPLY_VENV)
	$(SUPPLY_BIN)/python .ci/release.py
	rm -rf dist
	$(SUPPLY_BIN)/python -m build --outdir dist
	$(SUPPLY_BIN)/twine check --strict dist/*
	$(MAKE) sbom
	@cd dist && sha256sum *
	@echo "Fit to be released: push the tag, and publish dist/ with build/sbom.json beside it (docs/releasing.md)"

# The lowest versions of everything that pyproject.toml allows, in an environment of their own (.venv-lowest, several GB).
test-lowest: $(SUPPLY_VENV)
	UV=$(abspath $(SUPPLY_BIN))/uv PYTHON="$(PYTHON)" .ci/lowest

clean:
	rm -rf $(VENV) $(DOCS_VENV) $(SUPPLY_VENV) .venv-lowest build dist site
