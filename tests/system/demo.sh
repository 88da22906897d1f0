#!/bin/sh
# The application from end to end on generated pictures; `make demo` runs it. Each command is shown as it is run.
# It begins from nothing each time, in demo/ or in the folder that is given.
set -eu
cd "${0%/*}/../.."
python=.venv/bin/python
demo=${1-demo}
export PICTURE_FEATURES_LOG__FORMAT=text # as on a terminal, even where a pipe or a file takes the output

step() {
    printf '\n# %s\n' "$*"
}

run() {
    printf '$ %s\n' "$python -m $*"
    "$python" -m "$@"
}

run_snippet() {
    printf '$ %s - <<END\n%s\nEND\n' "$python" "$1"
    printf '%s\n' "$1" | "$python" -
}

fit() {
    run batch_fit fit --input "$demo/pictures" --models "$demo/models" --classify "$@"
}

rm -rf "$demo/pictures" "$demo/models" "$demo/output"

step 'Monday: a camera takes pictures of six kinds of fruit. A few files are broken.'
run tests.support.samples "$demo/pictures/monday"

step 'Fit a model on them: MobileNetV2, StandardScaler, PCA, and a classifier of the folders.'
fit || {
    status=$?
    [ $status -eq 4 ] || exit $status # 4: no weights
    step 'Without the ImageNet weights, random ones do: everything works, but the features carry little meaning.'
    fit --weights random:0
}

step 'Tuesday: more fruit, each in a burst of three shots, and watermelons for the first time.'
run tests.support.samples "$demo/pictures/tuesday" --seed 1 --pictures 84 --classes 7 --shots 3

step 'Turn all pictures of both days into rows of a table. (To keep watching the folder, say "run", not "replay".)'
run streaming replay --input "$demo/pictures" --models "$demo/models" --output "$demo/output"

step 'Read the table: for each label, the medians of three principal components and of the reconstruction error.'
run_snippet "import pandas

table = pandas.read_parquet('$demo/output/features')
components = ['PC1', 'PC2', 'PC3']
table[components] = table['features'].str[:3].tolist()
medians = table.groupby('label')[[*components, 'reconstruction_error']].median()
medians = medians.sort_values('reconstruction_error').rename_axis(index=None, columns='label')
print(medians.to_string(float_format='%.1f'))"

show() {
    printf '  %-50s  %s\n' "$@"
}

printf '\nThe reconstruction error is what the model cannot express. Its fit has never seen a watermelon.\n\nLook at\n'
show "$(echo "$demo"/models/*/report.html)" 'what the model has learned; open it in a browser'
show "$demo/output/features" 'the table, in Parquet: a row for each picture'
show "$demo/output/quarantine" 'the broken files: a row for each, with the reason'
cat <<END

Type next
  $python -m streaming status --output $demo/output
  $python -m streaming quarantine list --output $demo/output
  $python -m streaming similar $demo/pictures/monday/Lime/000033.jpg --table $demo/output --html $demo/similar.html
  $python -m streaming run --input $demo/pictures --models $demo/models --output $demo/output
and, while that runs, copy pictures of your own into $demo/pictures/wednesday. Ctrl-C stops it.
END
