# Everything a developer types. Each target makes its own virtual environment in .venv first, when it is
# missing or when what it is made from has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := imagebeam.pipeline imagebeam.transforms imagebeam.emulators
SCRIPTS := $(sort $(dir $(wildcard tests/conftest.py tests_gcp/*.py benchmarks/*.py examples/*.py templates/*.py docs/*/*.py)))

LOCKED := -c requirements.lock -e '.[local,dev]'
# uv installs in seconds what takes pip minutes. It does not read pip's settings: pass on where packages come from.
PIP_SETTINGS = eval "$$($(BIN)/python -m pip config list | sort -r | sed -nE 's/^[^.]*\.(.*)=/\1=/; \
  s/^index-url=/export UV_DEFAULT_INDEX=/p; s/^extra-index-url=/export UV_INDEX=/p; \
  s/^find-links=/export UV_FIND_LINKS=/p; s/^cert=/export SSL_CERT_FILE=/p')"

.DEFAULT_GOAL := help
.PHONY: help demo test-fast test test-long test-gcp check lint types bench clean

help:
	@echo 'make demo      the real job on a local Google Cloud: no account, no network after installation'
	@echo 'make test-fast unit tests and checks of the repository: about a minute'
	@echo 'make test      what CI runs: lint, types and all tests except long ones'
	@echo 'make test-long everything, and a record of it in tests/last_long_run.md'
	@echo 'make test-gcp  three public images on a real project: about a cent'
	@echo 'make check     lint and types only'
	@echo 'make bench     how fast it is on this machine'
	@echo 'make clean     remove .venv and everything that was built'

demo: $(INSTALLED)
	@$(BIN)/imagebeam local demo

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m "not long" tests/unit tests/repo

# Most tests wait for a server: two at a time take half as long. A file stays together, with a cloud of its own.
test: check
	$(BIN)/python -m pytest -m "not long" -n auto --maxprocesses 4 --dist loadfile

test-long: check
	$(BIN)/python tests/support/long_run.py

# Opt-in: it needs credentials and a project that pays. It deletes what it makes.
test-gcp:
	@if [ -z "$$IMAGEBEAM_GCP_PROJECT" ]; then \
	  echo 'skipped: export IMAGEBEAM_GCP_PROJECT=PROJECT (it pays about a cent), and perhaps IMAGEBEAM_GCP_BUCKET=BUCKET'; \
	else \
	  $(MAKE) --no-print-directory $(INSTALLED) && $(BIN)/python -m pytest tests_gcp; \
	fi

check: lint types

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .typing && ln -sfn .. .typing/imagebeam
	PYTHONPATH=.typing $(BIN)/lint-imports --no-logo

# mypy cannot see through the import hook of an editable install, but it can follow a link.
types: $(INSTALLED)
	@mkdir -p .typing && ln -sfn .. .typing/imagebeam
	$(BIN)/mypy $(PACKAGES:%=-p %)
	$(BIN)/mypy $(SCRIPTS)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.run --write docs/benchmarks.md

clean:
	rm -rf $(VENV) .typing build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): setup.py requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'imagebeam needs Python 3.11 or newer, and $(PYTHON) is not there: install it, or make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "imagebeam needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=/path/to/a/newer/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'this Python has no venv module: install it (Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing into $(VENV): about 150 packages, once'
	@$(PYTHON) -m venv $(VENV)
	@{ $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock uv && \
	  $(PIP_SETTINGS) && $(BIN)/uv pip install --python $(BIN)/python $(LOCKED); } || { \
	  echo 'uv cannot install here; pip takes a minute or two'; \
	  $(BIN)/python -m pip install --disable-pip-version-check $(LOCKED); }
	@touch $@
