# What to do with a checkout. Each target sets up what it needs, with nothing but Python, make and Java on the machine.

# Without the files that Python keeps of what it compiles, each start of a program compiles TensorFlow once more.
unexport PYTHONDONTWRITEBYTECODE

# Tests share the cores, and threads of OpenBLAS that wait for one another spin: a fit would take several times as long.
test-fast test test-yarn: export OPENBLAS_NUM_THREADS = 1

.PHONY: help setup demo notebook test-fast test test-yarn soak check bench bench-peers clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## install what is locked into .venv, and a Java into .java/ if there is none (the targets below do this first)
	@requirements/install.sh

demo: setup ## generate pictures, fit a model on them and replay them into a table, all in demo/
	@tests/system/demo.sh

notebook: setup .venv/notebook.txt ## explore the table of the demo in JupyterLab
	test -e demo/output || tests/system/demo.sh
	JAVA_HOME="$$(.venv/bin/python -m conf.spark.java)" PYTHONPATH="$(CURDIR)" \
		.venv/bin/python -m jupyterlab docs/notebooks/explore.ipynb

.venv/notebook.txt: requirements/notebook.txt | setup
	.venv/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/notebook.txt
	cp requirements/notebook.txt $@

test-fast: setup ## run the tests that need neither Spark, nor a store, nor whole programs
	.venv/bin/python -m pytest -n 2 -m "not yarn and not spark and not store and not programs"

test: setup ## run the test suite
	.venv/bin/python -m pytest -n 3 --dist worksteal --durations 15

test-yarn: setup ## package the application, and run it on a YARN on this machine
	.venv/bin/python -m pytest -m yarn --durations 5 tests/emr/test_package.py tests/system/test_yarn.py

soak: setup ## kill a stream 60 times, at every point where it writes, and count
	.venv/bin/python -m tests.system.soak

check: setup ## check style, formatting, types, the direction of imports and spelling
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m mypy
	.venv/bin/lint-imports
	.venv/bin/codespell

bench: setup ## measure what the README states about speed
	.venv/bin/python -m benchmarks

bench-peers: setup .venv-peers/installed.txt ## measure a replay beside Daft and Ray Data, installed into .venv-peers
	.venv/bin/python -m benchmarks.peers

.venv-peers/installed.txt: requirements/peers.txt
	.venv/bin/python -m venv --clear .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/peers.txt
	cp requirements/peers.txt $@

clean: ## remove all that these targets made
	rm -rf .venv .venv-peers .java demo build *.egg-info .hypothesis .*_cache
