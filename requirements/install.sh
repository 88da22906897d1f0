#!/bin/sh
# Makes .venv hold exactly what dev.txt locks, and sees that there is a Java for Spark; `make setup` runs it.
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

install_packages() {
    echo "setup: installing requirements/dev.txt into .venv (1.5 GB to download, some minutes)"
    [ -t 1 ] || quiet=--quiet
    .venv/bin/python -m pip --disable-pip-version-check ${quiet-} install --no-compile --require-hashes -r requirements/dev.txt \
        2>.venv/pip.log || fail "$(explain_pip .venv/pip.log)"
    cp requirements/dev.txt .venv/installed.txt
}

explain_pip() {
    if grep -q 'Retry(total=0' "$1"; then
        echo "the package index does not answer; connect to the internet and try again (details: $1)"
    else
        echo "pip failed: $(sed -n 's/^ERROR: //p' "$1" | tail -n 1); all that it said is in $1"
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
