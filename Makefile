# Everything runs in a virtual environment of its own, which `make demo` and `make test` make and fill on first use.
# Settable: PYTHON (3.11 or newer), VENV, PIP_ARGS (more options for pip install), JOBS (test processes), BENCH.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))

BIN := $(VENV)/bin
# Its date says when the environment was last brought in line with the files that describe it.
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo
LAB := $(VENV)/.lab
# What pip's log says of each file that it fetched, added up.
DOWNLOADED := / Downloading / && match($$0, /\([0-9.]+ [kMG]?B\)$$/) { \
  split(substr($$0, RSTART + 1, RLENGTH - 2), size, " "); \
  sum += size[1] * (size[2] == "GB" ? 1000 : size[2] == "MB" ? 1 : size[2] == "kB" ? 0.001 : 0.000001) } \
  END { printf "Downloaded %.0f MB.\n", sum }
# numba compiles UMAP for half a minute: for the demo once here, not when its first map is drawn.
COMPILE := "from genrec_lab.viz.projection import project_residuals as draw; \
  draw([[[x, x * x % 7]] for x in range(60)], ['one'] * 60, method='umap')"
AUDITED := $(VENV)/.audited
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))
BENCH ?= $(sort $(filter-out __init__ measuring random_qwen,$(basename $(notdir $(wildcard benchmarks/*.py)))))

# Without bytecode every process would compile the package anew, and there are hundreds of them.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test check unit notebooks nightly format lab bench gallery docs hooks constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the virtual environment and install everything into it

# A target installs what it needs: the demo the chain alone, `make lab` JupyterLab too, the tests everything.
$(DEMO): EXTRAS := offline
$(LAB): EXTRAS := explore,offline
$(STAMP): EXTRAS := explore,offline,baselines,browser,scale,serve,docs,bench,dev
$(DEMO) $(LAB) $(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is not. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' lacks venv. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the package with $(EXTRAS) into $(VENV), once. The demo downloads about 600 MB, the tests 350 MB more."
	@echo "On Linux without a GPU, PIP_ARGS with PyTorch's CPU index spares 2 to 3 GB of CUDA libraries."
	@rm -f $(VENV)/pip.log
	$(BIN)/python -m pip install $(PIP_ARGS) --log $(VENV)/pip.log -c constraints.txt -e '.[$(EXTRAS)]'
	@awk '$(DOWNLOADED)' $(VENV)/pip.log
	-@$(if $(filter $(STAMP),$@),true,$(BIN)/python -c $(COMPILE))
	@touch $@ $(if $(filter $(STAMP),$@),$(DEMO) $(LAB)) $(if $(filter $(LAB),$@),$(DEMO))

demo: $(DEMO) ## run the whole chain on the embedded data, a few minutes on two cores
	$(BIN)/python -m genrec_lab.run papermill_runs/demo.yaml

# The tests leave cores idle while a slow file ends: the static checks and the notebooks go on beside them and are
# printed after them; they have one thread, for threads that wait for a core would slow the tests.
test: $(STAMP) ## everything: static checks, tests, notebooks
	@beside=$$(mktemp) && trap 'rm -f "$$beside"' EXIT && \
	  { OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 $(MAKE) --no-print-directory check notebooks >"$$beside" 2>&1 & } && \
	  $(MAKE) --no-print-directory unit; tests=$$?; \
	  wait $$!; others=$$?; cat "$$beside"; exit $$((tests || others))

check: $(STAMP) $(AUDITED) ## static checks only: ruff (security rules too), mypy, import-linter, pip-audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Once for each set of versions. A flaw that became known since they were tested is told and breaks no test.
$(AUDITED): constraints.txt $(STAMP)
	-$(BIN)/python .ci/audit.py constraints.txt
	@touch $@

unit: $(STAMP) ## the tests under tests/
	$(BIN)/python -m pytest -p no:nbval -n $(JOBS) --dist loadfile --no-loadscope-reorder tests

# One process, in the notebooks' order, for each reads what the ones before it wrote.
notebooks: $(STAMP) ## run every notebook at its defaults, in order, on a short demo in a temporary runs folder
ifneq ($(NOTEBOOKS),)
	@runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && export GENREC_RUNS="$$runs" && \
	  $(BIN)/python -m pytest -p no:xdist -p tests.notebooks.short_demo --nbval-lax --nbval-cell-timeout=1800 $(NOTEBOOKS)
endif

nightly: $(STAMP) ## every test at full size: 20,000 damaged files, 10,000 searches, the demo's worlds, killed chains
	GENREC_NIGHTLY=1 GENREC_INPUTS=20000 GENREC_SEARCHES=10000 GENREC_DEMO_SEEDS=0,1,2 \
	  $(MAKE) --no-print-directory unit

format: $(STAMP) ## sort imports, mend what ruff can mend, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(LAB) ## open JupyterLab on the first notebook
	$(BIN)/python -m jupyterlab notebooks/00_setup_check.ipynb

bench: $(STAMP) ## run the benchmarks; one alone: make bench BENCH=name
	@set -e; for name in $(BENCH); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

gallery: $(STAMP) ## make docs/gallery.md and its pictures, in Chromium, from a small run; some minutes
	$(BIN)/python -m genrec_lab.run papermill_runs/gallery.yaml
	$(BIN)/python -m docs.gallery

# What the demo has computed is not computed again; the notebooks on the site have its outputs.
docs: $(STAMP) demo ## build the site into build/site from the demo's run, and look for dead links and empty figures
	$(BIN)/python -m genrec_lab.run papermill_runs/demo.yaml --only 10
	$(BIN)/genrec explore demo --html build/explorer.html
	$(BIN)/python -m sphinx -q -E -W --keep-going -c docs -D genrec_explorer=build/explorer.html . build/site
	$(BIN)/python -m docs.crawl build/site

hooks: $(STAMP) ## check and strip at every commit
	$(BIN)/pre-commit install

constraints: $(STAMP) ## write this environment's versions into constraints.txt, once the tests passed with them
	@head -n 1 constraints.txt > constraints.new
	@$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+[^ ]*$$//' | LC_ALL=C sort -f >> constraints.new
	@mv constraints.new constraints.txt && touch $(STAMP)

clean: ## remove the environment and caches; results in papermill_runs/out stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
