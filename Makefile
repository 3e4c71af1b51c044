# What a checkout can do. `make help` lists it.
#
# Needs a Rust toolchain and Python 3.11 or newer; fetches everything else (crates, wheels, and as root the Debian
# packages that are missing). Release artifacts are shared by every goal, so that the workspace is compiled once.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= $(or $(shell command -v cargo),$(HOME)/.cargo/bin/cargo)
PYTHON ?= python3
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export PIP_DISABLE_PIP_VERSION_CHECK := 1

RELEASE := $(CARGO_TARGET_DIR)/release
VENV := $(CURDIR)/.venv
PIP := $(VENV)/bin/python -m pip --quiet
# Steps that are done leave a file here.
DONE := $(VENV)/.done
PACKAGE := libclient/python
CARRIED := $(PACKAGE)/python/tensord/bin/tensord
DEMO_FLAGS = $(if $(WAV),--wav "$(WAV)") $(if $(SECONDS),--seconds "$(SECONDS)") $(DEMO_ARGS)

PACKAGE_SOURCES := Cargo.toml Cargo.lock $(PACKAGE)/pyproject.toml $(shell find shm libclient/rust $(PACKAGE) \
	-name '*.rs' -o -name Cargo.toml -o -name '*.py' -o -name '*.pyi' -o -name py.typed)

.PHONY: help build binaries demo test figures bench record clean

help: ## Says what there is
	@echo "tensord: an operating-system service for tensors"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: binaries $(DONE)/tensord ## Binaries in target/release, Python package in .venv
	@echo "built: $(RELEASE)/{tensord,tensorctl,libtensord.so}; Python: $(VENV)/bin/python -c 'import tensord'"

binaries:
	@command -v "$(CARGO)" >/dev/null || { echo "no cargo: install Rust 1.95 or newer (https://rustup.rs), or set CARGO" >&2; exit 1; }
	$(CARGO) build --release -p tensord-daemon -p tensorctl -p tensord-c

# Debian's python3 has no ensurepip unless python3-venv is there.
$(DONE)/venv:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is missing or older than 3.11: install it, or set PYTHON" >&2; exit 1; }
	@if ! test -x $(VENV)/bin/pip; then \
		"$(PYTHON)" -m venv $(VENV) || { \
			rm -rf $(VENV); \
			test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
				|| { echo "python3 -m venv fails: apt-get install python3-venv" >&2; exit 1; }; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; \
			"$(PYTHON)" -m venv $(VENV); }; \
	fi
	@mkdir -p $(DONE) && touch $@

# The wheel carries the daemon, so that the first line of Python works where nothing else is installed.
# Cargo decides whether the daemon changed; only then is the wheel made anew.
$(CARRIED): binaries
	@mkdir -p $(@D)
	@cmp -s $(RELEASE)/tensord $@ || install -m 755 $(RELEASE)/tensord $@

$(DONE)/tensord: $(DONE)/venv $(CARRIED) $(PACKAGE_SOURCES)
	PATH="$(dir $(CARGO)):$$PATH" $(PIP) install --force-reinstall --no-deps ./$(PACKAGE)
	$(PIP) install "numpy>=1.26"
	@touch $@

$(DONE)/demo: $(DONE)/venv bench/demo/requirements.txt
	$(PIP) install -r bench/demo/requirements.txt
	@touch $@

$(DONE)/bench: $(DONE)/venv bench/suite/requirements.txt
	$(PIP) install -r bench/suite/requirements.txt
	@touch $@

$(DONE)/bench-all: $(DONE)/bench bench/suite/requirements-all.txt
	$(PIP) install -r bench/suite/requirements-all.txt
	@touch $@

$(DONE)/test: $(DONE)/venv $(PACKAGE)/pyproject.toml
	$(PIP) install pytest "gunicorn>=22" "ml_dtypes>=0.4" mpmath matplotlib
	@touch $@

demo: build $(DONE)/demo ## The main job on real recordings (WAV=folder, SECONDS=per mode)
	$(VENV)/bin/python bench/demo/main.py --daemon $(RELEASE)/tensord $(DEMO_FLAGS)

test: build $(DONE)/test $(DONE)/demo ## Everything that must hold, with a summary at the end
	$(VENV)/bin/python .ci/suites.py

figures: build $(DONE)/demo $(DONE)/bench ## Measures each figure that the documentation states
	$(VENV)/bin/python bench/figures/main.py

bench: build $(DONE)/demo $(DONE)/bench $(if $(filter all,$(PEERS)),$(DONE)/bench-all) ## Benchmarks beside peers (PEERS=all: PyTorch too, BENCH_ARGS=)
	$(VENV)/bin/python bench/suite/main.py $(BENCH_ARGS)

record: build $(DONE)/demo ## Runs the demo and writes its picture and table into the README
	$(VENV)/bin/python docs/record.py --daemon $(RELEASE)/tensord $(DEMO_FLAGS)

clean: ## Removes what was built; downloads of the demo stay in .cache
	rm -rf $(CARGO_TARGET_DIR) $(VENV) $(dir $(CARRIED))
