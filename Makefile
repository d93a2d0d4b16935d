# make setup | sweep | test | test-fast | test-long | test-cluster | test-cluster-long | lint | audit | bench | clean. Everything lives in .venv, and
# all but clean set it up by themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Tests and sweeps start a hundred processes: let the first one keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup sweep test test-fast test-long test-cluster test-cluster-long lint audit bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[sweep,onnx,dev]'
	touch $(STAMP)

sweep: setup
	$(BIN)/frontier run quick

# One process a core: a third one on two cores slows the others by more than it gains.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not slow"

# While one works: no Ray, no other programs, and a slice of the contract suite.
test-fast: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not ray and not process and not thorough"

# What `make test` leaves out. ATTACK_SEED=N attacks with another seed; ATTACK_RECORDS=DIR writes down how, and goes on from there.
test-long: setup test-cluster-long
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

# Hosts as network namespaces: needs root and Debian's iproute2, openssh-server, rsync; skipped with a reason elsewhere.
test-cluster: setup
	FRONTIER_HOSTS=1 $(BIN)/python -m pytest -p no:xdist tests/cluster/test_hosts.py

test-cluster-long: setup
	FRONTIER_HOSTS=1 $(BIN)/python -m pytest -p no:xdist -s tests/cluster/test_hosts_long.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of the pinned versions, as the package index has them; it lists those that the index does not answer for.
# In a place of its own: what it needs is no part of what is tested.
audit:
	test -x .audit/bin/pip-audit || { $(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'; }
	.audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

bench: setup
	$(BIN)/python benchmarks/ratios.py
	$(BIN)/python benchmarks/codebooks.py
	$(BIN)/python benchmarks/fit_cost.py
	$(BIN)/python benchmarks/table_size.py --quick
	$(BIN)/python benchmarks/readers.py
	$(BIN)/python benchmarks/search.py --seeds 3
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/report.py

clean:
	rm -rf .venv .audit runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
