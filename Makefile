# What a developer does here. `up` and `down` need Docker only; every other target but `help` begins
# with `setup`, which is quick when done.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help setup demo test test-system check bench walk campaign floods soak up down

# Test processes, each with a RabbitMQ and a Consul of its own: more than processors, as tests mostly wait.
WORKERS ?= 3

# uv and the tools' caches need a home, also where none is given.
ifeq ($(strip $(HOME)),)
export HOME := $(CURDIR)/.maniple/home
endif
# Trust what this machine trusts, as pip does: a company's proxy may have a certificate of its own.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= true
endif
# Libraries are compiled when they are installed, also where no process may write what it compiles.
export UV_COMPILE_BYTECODE ?= true
export PATH := $(PATH):$(HOME)/.local/bin:$(CURDIR)/.maniple/tools/bin

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 13

setup: ## install uv, the dependencies and the servers; nothing when all is there
	@mkdir -p "$$HOME"
	@# A folder of our own: pip then works also where the system's Python is managed by apt.
	@command -v uv >/dev/null || \
		python3 -m pip install --quiet --disable-pip-version-check \
		--root-user-action ignore --target .maniple/tools uv
	@uv sync --quiet --locked --all-packages
	@infra/local/install

up: ## build and start docker-compose.yml, wait until all is ready, print the addresses
	@infra/docker/up

down: ## remove it: containers, network and volumes, with all that is in them
	@infra/docker/down

demo: setup ## a cluster of three agents analyses the standard library, and one of them is killed
	@uv run --no-sync maniple demo

test: setup ## tests against real servers, in simulated time, of documents and units, in three processes
	@uv run --no-sync pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations=20

test-system: setup ## whole clusters, one test after the other: faults, alerts, rates, the demo, Docker if it is there
	@uv run --no-sync pytest --durations=20 tests/system

check: setup ## lint, format, types, import contracts
	uv run --no-sync ruff check .
	uv run --no-sync ruff format --check .
	uv run --no-sync mypy shared services tests bench examples infra tools
	uv run --no-sync lint-imports

bench: setup ## Maniple, Celery, Dramatiq and Taskiq on the same broker, beside the targets, in six minutes; ARGS=--full measures more
	@uv run --locked --all-packages --group bench python -m bench.run $(ARGS)

walk: setup ## follow one task from publish to result: the files of ours it goes through, and its deepest chain of calls
	@uv run --no-sync python tools/walk.py $(ARGS)

floods: setup ## what hostile publishers do to a neighbour and to a dispatcher's memory; the last line is JSON
	@PYTHONPATH=tests/support:tests uv run --no-sync python -m system.floods $(ARGS)

campaign: setup ## inject every fault, print the matrix and write docs/failure-matrix.md; ARGS=--help tells more
	@PYTHONPATH=tests/support:tests uv run --no-sync python -m system.campaign $(ARGS)

soak: setup ## an hour at 2,000 tasks a second with agents killed and connections closed: nothing grows, no task is lost
	@PYTHONPATH=tests/support:tests uv run --no-sync python -m system.soak $(ARGS)
