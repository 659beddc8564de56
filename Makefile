# `make repro` and `make test` set everything up, once, and run.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/.installed
# Columns of `dvc exp show` that are neither the headline (metrics/summary.json) nor params.
KEYS := (collection|retrieval|generation|sft|dpo|pairs|evaluation|(teacher|student|feedback)\.(?!candidates|ndcg|best|baseline|beat))
OTHERS := ^(?!(Experiment|rev|typ|Created|parent|State|Executor|seed)$$|.* of |$(KEYS))
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help repro test lint table report pictures experiments ui ablation dense benchmark clean
help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

repro: $(INSTALLED) ## run the pipeline as far as it is not up to date, print the results
	dvc repro
	@qedistill table

test: $(INSTALLED) ## run the tests
	pytest -q

lint: $(INSTALLED) ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

table: $(INSTALLED) ## put the results of the last run into README.md
	qedistill table --write README.md

experiments: $(INSTALLED) ## compare DVC's experiments: the headline figures and the params that differ
	@dvc exp show --only-changed --drop '$(OTHERS)'

report: $(INSTALLED) ## run the pipeline as far as it is not up to date, up to report/report.html
	dvc repro report
	@echo "open $(CURDIR)/report/report.html in a browser"

pictures: $(INSTALLED) ## draw README's pictures of the last run
	qedistill pictures

ui: $(INSTALLED) ## browse the runs at http://127.0.0.1:5000
	@qedistill ui

ablation: $(INSTALLED) ## run the grid of experiments behind docs/ablation.md (hours)
	python benchmarks/ablation.py

dense: $(INSTALLED) ## run the experiments behind docs/dense.md
	python benchmarks/dense.py

benchmark: $(INSTALLED) ## speed of training, generation and scoring against named alternatives, as ratios
	python benchmarks/training.py sft
	python benchmarks/training.py dpo
	python benchmarks/generation.py
	python benchmarks/scoring.py

clean: ## remove the virtual environment
	rm -rf $(VENV)

# The lock first: the package then finds its dependencies in place.
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: apt install python3 python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "venv is needed: apt install python3-venv" >&2; exit 1; }
	pip install --quiet --disable-pip-version-check -r requirements.lock
	pip install --quiet --disable-pip-version-check --no-deps -e .
	python -c "from qedistill.measures import compile_loops; compile_loops()"
	@touch $@
