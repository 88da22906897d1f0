#!/bin/sh
# The application from end to end on generated pictures, in demo/ and from nothing each time; `make demo` runs it.
set -eu
cd "${0%/*}/.."
python=.venv/bin/python

run() {
    printf '\n$ %s\n' "$python -m $*"
    "$python" -m "$@"
}

fit() {
    run batch_fit fit --input demo/pictures --models demo/models --weights "$1"
}

rm -rf demo/pictures demo/models demo/output
run tests.samples demo/pictures
fit imagenet || {
    status=$?
    [ $status -eq 4 ] || exit $status # 4: no weights
    cat <<END

!!! The ImageNet weights are not to be had here, so the demo goes on with random ones (--weights random:0).
!!! Everything works as it would, but the features mean nothing.
END
    fit random:0
}
run streaming replay --input demo/pictures --models demo/models --output demo/output

printf '\nThe table, demo/output/features:\n\n'
"$python" -c "import pandas; print(pandas.read_parquet('demo/output/features')[['label', 'features', 'model_version']])"
printf '\nThe report: %s\n' demo/models/*/report.html
