#!/bin/sh
# Makes .venv hold what dev.txt locks, and uv, and sees that there is a Java for Spark; `make setup` runs it.
# The copy of dev.txt that .venv gets last says that it is complete and current.
set -eu
cd "${0%/*}/.."

fail() {
    echo "setup: $1" >&2
    exit 7
}

is_current() {
    cmp -s requirements/dev.txt .venv/installed.txt && .venv/bin/python -c '' 2>/dev/null
}

find_python() {
    for python in python3.11 python3.12 python3.13 python3; do
        # Asked, not believed: pyenv has a python3.12 on the PATH even where it only says that there is none.
        if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
    fail "Python 3.11, 3.12 or 3.13 is needed and not on the PATH; install it (apt install python3.11 python3.11-venv;\
 dnf install python3.11; brew install python@3.11)"
}

make_venv() {
    python=$(find_python)
    "$python" -c 'import ensurepip' 2>/dev/null ||
        fail "$python has no ensurepip, so it cannot make .venv; install it (apt install $python-venv)"
    [ ! -L .venv ] || fail ".venv is a link, and another checkout's packages would be deleted; remove the link"
    rm -f .venv/installed.txt
    "$python" -m venv --clear .venv
}

pip() {
    .venv/bin/python -m pip --disable-pip-version-check "$@"
}

install_packages() {
    echo "setup: installing requirements/dev.txt into .venv (1.5 GB to download, some minutes)"
    by_uv >.venv/uv.log 2>&1 || {
        echo "setup: uv cannot install them (details: .venv/uv.log); pip does, which takes longer"
        by_pip 2>.venv/pip.log || fail "$(explain_pip)"
    }
    cp requirements/dev.txt .venv/installed.txt
}

by_uv() { # takes less than half as long as pip; of pip's configuration, it is told the index
    pip install --quiet --require-hashes -r requirements/uv.txt || return
    index=$(pip config list | sed -n "s/.*\\.index-url='\\(.*\\)'/\\1/p" | head -n 1)
    ${index:+env "UV_DEFAULT_INDEX=$index"} .venv/bin/uv pip install --quiet --no-deps --require-hashes \
        --python .venv/bin/python -r requirements/dev.txt
}

by_pip() {
    pip install --quiet --no-compile --no-deps --require-hashes -r requirements/dev.txt
}

explain_pip() {
    if grep -q 'Retry(total=0' .venv/pip.log; then
        echo "the package index does not answer; connect to the internet and try again (details: .venv/pip.log)"
    else
        echo "pip failed: $(sed -n 's/^ERROR: //p' .venv/pip.log | tail -n 1); all that it said is in .venv/pip.log"
    fi
}

check_java() {
    .venv/bin/python -m conf.spark.java >/dev/null
}

if is_current; then
    check_java
else
    make_venv
    check_java # before the long part
    install_packages
    .venv/bin/python -m conf.spark.class_archive
fi
