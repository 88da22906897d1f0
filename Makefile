# What to do with a checkout. Each target sets up what it needs, with nothing but Python, make and Java on the machine.

.PHONY: help setup demo test test-yarn soak check bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## install what is locked into .venv, and a Java into .java/ if there is none (the targets below do this first)
	@requirements/install.sh

demo: setup ## generate pictures, fit a model on them and replay them into a table, all in demo/
	@tests/demo.sh

test: setup ## run the test suite
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15

test-yarn: setup ## package the application, and run it on a YARN on this machine
	.venv/bin/python -m pytest -m yarn tests/test_package.py tests/test_yarn.py

soak: setup ## kill a stream 60 times, at every point where it writes, and count
	.venv/bin/python -m tests.soak

check: setup ## check style, formatting, types and the direction of imports
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

bench: setup ## measure what the README states about speed
	.venv/bin/python -m benchmarks

clean: ## remove all that these targets made
	rm -rf .venv .java demo build *.egg-info .hypothesis .*_cache
