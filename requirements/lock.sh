#!/bin/sh
# Rewrites the lock files from pyproject.toml: hashed, for Python 3.11 to 3.13, without index addresses.
set -eu
cd "$(dirname "$0")/.."
command -v uv >/dev/null || {
    echo "lock: uv is needed and not on the PATH; install it (https://docs.astral.sh/uv/, or pip install uv)" >&2
    exit 7
}
lock() {
    out=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
        -c requirements/constraints.txt "$@" -o "requirements/$out"
}
lock dev.txt pyproject.toml --extra dev --extra fit --extra heic
lock notebook.txt pyproject.toml --extra notebook -c requirements/dev.txt
lock fit.txt pyproject.toml --extra fit -c requirements/dev.txt
lock run.txt pyproject.toml -c requirements/dev.txt
lock java.txt --group java
lock uv.txt --group uv
# The peers run the same versions of what featurizes; the rest is theirs, as they have bounds of their own.
grep -E '^(ai-edge-litert|numpy|pillow|pyarrow)==' requirements/run.txt | sed 's/ .*//' |
    lock peers.txt --group peers -c -
