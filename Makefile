# Each target sets up what it needs: a fresh clone is enough.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(STAMP)
	$(VENV)/bin/kronexport build sample:resnet20 --target cpu --target openvino --goal "params<=0.6" --out kronexport-out
	@echo "The report: kronexport-out/report.html"

# One process a core, one thread a process: threads for small matrices only wait for each other. A file's tests run in
# one process, lest what they share is built in each; in their order, since by number of tests the longest came last.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) kronexport-out

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@
