# Needs Python from 3.11 on and make. `make demo` and `make test` install what they need into .venv.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test lint bench site clean

demo: $(VENV)/installed
	$(RUN)/multispike compare --arch fastnet --data digits --epochs 8 \
	  --variants ann,binary-T4,multilevel-T1-N4 --out runs/demo
	@echo "The report: runs/demo/report.html"

test: $(VENV)/installed-test lint
	$(RUN)/pytest -q -n auto --dist worksteal

lint: $(VENV)/installed-test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright

bench: $(VENV)/installed-test
	mkdir -p runs
	$(RUN)/python benchmarks/speed.py --out runs/speed.json

site: $(VENV)/installed-test
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --site-dir site

clean:
	rm -rf $(VENV) build dist site src/*.egg-info

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python from 3.11 on: make PYTHON=/path/to/python"; exit 2; }
	@echo "Python: $$($(PYTHON) --version), $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN)/pip install --quiet -c constraints.txt -e ".[test,events,deploy,nir,docs]"
	touch $@
