# Every target sets up what it needs: `make demo` and `make test` work from a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
export DVC_SITE_CACHE_DIR := $(CURDIR)/.textmill/dvc-site
export DVC_NO_ANALYTICS := 1

.PHONY: demo docs test proofs check up data install dev clean

install: .venv/installed
dev: .venv/installed-dev

# The platform alone, or with the tools of its tests: transformers and others, which only they need.
.venv/installed-dev: EXTRA := [dev]
.venv/installed .venv/installed-dev: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("textmill needs Python 3.11 or newer; set PYTHON=/path/to/it")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing pinned packages into .venv (minutes the first time) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.$(EXTRA)' 2>.venv/pip.log || (cat .venv/pip.log; exit 1)
	@touch $@

data: install
	@mkdir -p -m 700 .textmill
	@$(BIN)/dvc pull -q data.dvc && echo "Sample data is in data/"

demo: data
	@$(BIN)/textmill run sample

up: data
	@$(BIN)/textmill up

# Files in their order, long ones first: sorted by number of tests the longest would run last, alone.
test: dev data
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

proofs: dev data
	@$(BIN)/python -m pytest -q -m slow --timeout 3600

check: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The site lies in site/index.html; the notice of its theme about a later mkdocs is left out.
docs: dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q && echo "site/index.html"

clean:
	rm -rf artifacts site .textmill .dvc/cache .dvc/tmp
