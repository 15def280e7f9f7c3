.DEFAULT_GOAL := help
# Set, as in many containers, it makes every command compile all modules anew: 26 s to import train, not 11.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)
DEMO := runs/demo
PLATFORMS := (platform_machine == 'arm64' and sys_platform == 'darwin') or sys_platform == 'linux' or sys_platform == 'win32'

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: .venv/installed ## make .venv with everything, uv included if it is missing

.venv/installed: pyproject.toml requirements.txt
	@if command -v uv >/dev/null 2>&1; then \
	  test -x $(BIN)/python || uv venv --quiet --python '>=3.11' .venv; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; \
	fi
	$(UV) pip install --quiet --python $(BIN)/python --requirement requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# One thread: at this size a second one gains little, and waits in a spin where the machine is shared.
demo: export OMP_NUM_THREADS = 1
demo: setup ## train on the audio that ships, evaluate, separate: a table, WAVs and a picture in demo/
	rm -rf $(DEMO) demo
	$(BIN)/python -m frametx.train experiment=demo name=demo test=false
	$(BIN)/python -m frametx.evaluate ckpt=$(DEMO)/checkpoints/best.ckpt data=demo output=demo wavs=1 pictures=1
	$(BIN)/python -m frametx.separate ckpt=$(DEMO)/checkpoints/best.ckpt 'input=demo/audio/*/mixture.wav' output=demo/separated
	@echo "listen: demo/separated   look: demo/pictures"

data: setup ## fetch larger libraries of voices, music and noises into data/corpora (needs apt-get; singing: pyworld)
	$(BIN)/python -m frametx.data.corpora output=data/corpora

test: setup lint ## lint, types, import contracts, the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-all: setup lint ## every test, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow or not slow"

lint: setup ## ruff, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## the pages of docs/ as a site in site/; a warning or a broken link is an error
	NO_COLOR=1 $(BIN)/zensical build --clean --strict

bench: setup ## speed and memory of everything, beside plain transcriptions; about an hour
	$(BIN)/python -m frametx.bench bench.parts=[plain,attention,family,data,step,separate]

lock: ## pin every version anew in requirements.txt
	$(UV) pip compile --quiet --universal --upgrade --python-version 3.11 --extra dev --extra docs --no-emit-index-url --no-header --no-annotate -o requirements.txt pyproject.toml
	sed -i.bak -e "s/ and ($(PLATFORMS))//" -e "s/ ; $(PLATFORMS)//" requirements.txt # what holds for all
	rm requirements.txt.bak

wheel: setup ## build sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

.PHONY: help setup demo data test test-all lint format docs bench lock wheel
