# make demo       see ten synthetic digits train a network (installs what it needs into .venv first)
# make test       everything that must pass before a merge
# make test-all   that, the tests marked slow, the slow checks of tests/slow, and make soak; what has passed is not run again until code changes
# make soak       kills, hostile files, random configurations and layouts by the hundred, under 15 minutes; cut off, it goes on
# make gpu        what one GPU can show of it, in eight minutes: out/gpu/gpu.json; DRY_RUN=1 walks through all of it on a CPU
# make gpu-data   pack the data that this takes into .gpu, for a machine that has no network
# make prepare    after editing a notebook: export the code, clean the notebooks, render README.md and LEADERBOARD.md
# make site       the notebooks and every public name as web pages, in _site
# make docs       the same by nbdev and Quarto, in _docs (needs Quarto)
# make clean      remove what the other targets made, .venv excepted

PYTHON     ?= python3
VENV       ?= .venv
# e.g. VENV_FLAGS=--system-site-packages to keep a torch that is installed already
VENV_FLAGS ?=

BIN   := $(VENV)/bin
PY    := $(BIN)/python
STAMP := $(VENV)/.dd_nb_installed
# Newer than a slow test's stamp if code has changed since, not if only prose has
CODE  := out/tests/code
SLOW  := $(patsubst tests/slow/%.py,out/tests/%.ok,$(wildcard tests/slow/test_*.py))

# One thread for the tests: nbdev_test runs two notebooks at a time, and two threads on a busy core wait for each other
test test-all: export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= agg

.PHONY: demo install test test-all soak prepare readme site docs gpu gpu-data clean
# One thread: the network is small, two are hardly faster, and on a busy core they wait for each other
demo: $(STAMP)
	$(BIN)/dd_reproduce demo --out out --threads 1

install: $(STAMP)
$(STAMP): settings.ini setup.py pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(PY) -m pip install -q -e '.[dev]'
	touch $@

test: $(STAMP)
	$(PY) tools/check.py
	$(PY) -m ruff check -q
	$(PY) -c 'from nbdev.test import nbdev_test; nbdev_test.__wrapped__(n_workers=2, do_print=True, timing=True)'
	$(PY) -m pytest -q -n 2 --dist worksteal tests

test-all: out/tests/fast.ok out/tests/marked.ok $(SLOW) out/tests/soak.ok
$(CODE): FORCE
	@$(PYTHON) tools/stamp.py $@
FORCE:

out/tests/fast.ok: $(CODE)
	$(MAKE) test
	mkdir -p $(@D) && touch $@
out/tests/marked.ok: $(CODE) | $(STAMP)
	$(PY) -m pytest -q -m slow tests
	mkdir -p $(@D) && touch $@
out/tests/%.ok: $(CODE) | $(STAMP)
	$(PY) -m pytest -q tests/slow/$*.py
	mkdir -p $(@D) && touch $@

out/tests/soak.ok: $(CODE) | $(STAMP)
	$(MAKE) soak
	mkdir -p $(@D) && touch $@

soak: $(STAMP)
	$(PY) tools/soak.py

gpu: $(STAMP)
	$(PY) tools/gpu.py --out out/gpu --budget 480 $(if $(wildcard .gpu/*.npz),--data .gpu) $(if $(DRY_RUN),--dry-run)

gpu-data: $(STAMP)
	$(PY) tools/gpu.py --pack .gpu

prepare: $(STAMP)
	$(PY) -c 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()'
	$(PY) -c 'from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()'
	$(PY) -c 'from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()'
	$(PY) tools/make_stubs.py
	$(MAKE) readme

readme: $(STAMP)
	$(PY) tools/render_readme.py

site: $(STAMP)
	$(PY) tools/build_site.py

docs: $(STAMP)
	@command -v quarto >/dev/null || { echo 'make docs needs Quarto: https://quarto.org/docs/get-started/'; exit 1; }
	$(PY) -c 'from nbdev.quarto import nbdev_docs; nbdev_docs.__wrapped__()'
	$(PY) tools/render_readme.py

clean:
	rm -rf out build dist *.egg-info _docs _site _proc .pytest_cache .hypothesis .ruff_cache nbs/.last_checked
	find nbs dd_nb tests tools -name __pycache__ -prune -exec rm -rf {} +
