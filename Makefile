# Everything that Paddock does from a checkout. `make demo` and `make test` set up whatever they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Nothing here reports to anyone.
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export ANONYMIZED_TELEMETRY = false

.PHONY: setup llama-server system-packages demo test check torture gpu bench up down clean

# It knows itself whether there is anything to do: what is installed depends on CMAKE_ARGS too.
setup:
	@$(PYTHON) infra/setup.py $(VENV)

# llama.cpp's own server, from the engine's source package, onto the PATH of .venv: `paddock serve` takes it where it is.
llama-server: setup
	@$(BIN)/python -m infra.llama_tools llama-server

# From Debian, as root: what tests need beside. What still is not there fails its tests, which say how to get it.
system-packages: setup
	@$(BIN)/python -m infra.system_packages

demo: setup
	@$(BIN)/python -m infra.local demo

up: setup
	@$(BIN)/python -m infra.local up

down: setup
	@$(BIN)/python -m infra.local down

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup llama-server system-packages
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

torture: setup llama-server system-packages
	$(BIN)/python -m pytest -m torture --timeout 3600

# Where an NVIDIA GPU is, after `CMAKE_ARGS=-DGGML_CUDA=ON make setup llama-server`.
gpu: setup
	$(BIN)/python -m pytest -m gpu --timeout 600 tests/gpu

# nginx-light, aria2 and openssl from the system: what is not there is left out, but for nginx.
bench: setup
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .local .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
