# Needs Python 3.11 and make. `make demo` and `make test` install what they need into .venv.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(RUN)/multispike compare --arch fastnet --data digits --epochs 8 \
	  --variants ann,binary-T4,multilevel-T1-N4 --out runs/demo
	@echo "The report: runs/demo/report.html"

test: $(VENV)/installed-test lint
	$(RUN)/pytest -q -n auto

lint: $(VENV)/installed-test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright

bench: $(VENV)/installed-test
	mkdir -p runs
	$(RUN)/python benchmarks/speed.py --out runs/speed.json

clean:
	rm -rf $(VENV) build dist src/*.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN)/pip install --quiet -c constraints.txt -e ".[test,events,deploy,nir]"
	touch $@
