# make setup   make .venv and install everything into it
# make train   train; ARGS="--flag value ..." replaces the arguments
# make play    step inside a dream; ARGS="--flag value ..." goes to play.py
# make test    every check; ARGS="-k name ..." goes to pytest
# make lint    style alone
# make gpu     try and measure all that needs a GPU; ARGS="..." goes to benchmarks/gpu.py
# make docs    the site, into site/; broken links fail (Python 3.11 or later)
# make test-lowest   the tests with the oldest versions that pyproject.toml allows
# make clean   remove what tools left here, but never .venv or a run
#
# PYTHON=python3.11 picks the interpreter (3.10 to 3.14) for a new .venv.
# TORCH_ARGS="--index-url URL" lets pip take another build of torch.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.12 python3.11 python3.10 python3.13 python3.14 python3)

# Some interpreters are found but do not run, or cannot make environments: try them.
WORKS := import sys, venv, ensurepip; \
	sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))

.PHONY: help setup train play test lint gpu docs test-lowest clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

# The stamp holds the folder that the environment was made in. Environments do not
# survive being moved or copied, so elsewhere a new one is made.
MADE_IN := $(shell cat $(STAMP) 2>/dev/null)
ifneq ($(MADE_IN),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): requirements.txt pyproject.toml
	@set -e; \
	if [ -n "$(MADE_IN)" ] && [ "$(MADE_IN)" != "$(CURDIR)" ]; then \
	  echo "$(VENV) was made in another folder; making it anew."; \
	  rm -rf $(VENV); \
	fi; \
	if ! $(PY) -c '$(WORKS)' 2>/dev/null; then \
	  python=; \
	  for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c '$(WORKS)' 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo 'Found no Python 3.10 to 3.14 that runs and has venv (tried:' \
	      '$(subst ",,$(CANDIDATES))); install one or name it with PYTHON=path.' >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$python" --version)."; \
	  "$$python" -m venv --clear $(VENV); \
	fi; \
	pip="$(PY) -m pip --disable-pip-version-check install"; \
	torch=$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt); \
	echo "Installing $$torch, which may take minutes."; \
	$$pip --quiet $(TORCH_ARGS) "$$torch"; \
	echo "Installing the other requirements."; \
	$$pip --quiet -r requirements.txt; \
	$$pip --quiet --no-deps -e .; \
	printf '%s\n' "$(CURDIR)" > $(STAMP); \
	echo "Ready: $(VENV)."

# $(value ...) keeps make from reading the dollars in patterns such as '$^'.
train: setup
ifneq ($(strip $(value ARGS)),)
	@exec $(PY) dreamerv2/train.py $(value ARGS)
else
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  echo "There is a GPU: training with the paper's Atari setting."; \
	  set -- atari pong dreamerv2; \
	else \
	  echo "There is no GPU that torch can use: training on Boxing with small networks."; \
	  set -- "small small_boxing" boxing small; \
	fi; \
	echo 'Other arguments: make train ARGS="--flag value ..."'; \
	exec $(PY) dreamerv2/train.py --configs defaults $$1 --task atari_"$$2" \
	  --logdir ~/logdir/atari_"$$2"/"$$3"/1
endif

play: setup
	@exec $(PY) dreamerv2/play.py $(value ARGS)

# A process for each core, of one thread: what most tests start is small.
test: lint
	@OMP_NUM_THREADS=1 exec $(PY) -m pytest --numprocesses auto --maxprocesses 8 \
	  --dist loadfile $(value ARGS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

gpu: setup
	@exec $(PY) benchmarks/gpu.py $(value ARGS)

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build
	@echo "Built site/index.html; $(PY) -m mkdocs serve shows it while you write."

# A second environment, by hand and for minutes: PYTHON=python3.10 is the oldest.
LOWEST := .venv-lowest
test-lowest:
	@set -e; \
	"$(or $(PYTHON),python3.10)" -m venv --clear $(LOWEST); \
	sed -n '/^dependencies = /,/^]/p;/^classic = /,/^]/p;/^dev = /,/^]/p' pyproject.toml \
	  | sed -n "s/^ *[\"']\([A-Za-z_.-]*\)>=\([0-9.]*\).*/\1==\2.*/p" \
	  | grep -v pygame-ce > $(LOWEST)/requirements.txt; \
	cat $(LOWEST)/requirements.txt; \
	pip="$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet"; \
	$$pip $(TORCH_ARGS) "$$(grep '^torch=' $(LOWEST)/requirements.txt)"; \
	$$pip -r $(LOWEST)/requirements.txt; \
	$$pip --no-deps -e .; \
	exec $(LOWEST)/bin/python -m pytest $(value ARGS)

clean:
	@rm -rf build dist site *.egg-info .pytest_cache .ruff_cache
	@for folder in dreamerv2 tests examples benchmarks scores; do \
	  if [ -d $$folder ]; then \
	    find $$folder -name __pycache__ -type d -prune -exec rm -rf {} +; \
	  fi; \
	done
