# Development commands. Each target sets up what it needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# No telemetry.
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export ANONYMIZED_TELEMETRY = false

# The tests start hundreds of Python processes, which would each compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup system-packages demo test check torture screenshots gpu bench up down clean

# Always run: infra/setup.py itself decides whether there is anything to do, which depends on CMAKE_ARGS too.
setup:
	@$(PYTHON) -m infra.setup $(VENV)

# Install the programs that tests need from Debian, as root. A test that misses one fails, and prints how to install it.
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

test: setup system-packages
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 20

torture: setup
	@$(BIN)/python -m infra.system_packages --torture
	$(BIN)/python -m pytest -m "hypothesis and not gpu" --hypothesis-profile torture --timeout 3600
	$(BIN)/python -m pytest -m torture --timeout 3600

# The pictures and screenshots of the documentation, of the real model on this machine: a quiet one, please.
screenshots: setup system-packages
	$(BIN)/python -m pytest -m torture tests/flows/test_pictures.py tests/flows/test_pages.py tests/flows/test_approve.py \
		--screenshots docs/images

# Needs an NVIDIA GPU, and `CMAKE_ARGS=-DGGML_CUDA=ON make setup` before.
gpu: setup
	$(BIN)/python -m pytest -m gpu --timeout 600 tests/gpu

# Needs the system's nginx-light. aria2 and openssl are optional: what needs them is left out.
bench: setup
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .local .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
