#!/bin/sh
# Makes earlier.tar.xz: what the programs of an earlier commit leave, for test_earlier_output.py.
#
#     tests/system/data/make_earlier.sh COMMIT
#
# Input, registry, output, exports and saved features lie in a folder of their own. Records hold absolute paths, of which
# some are hashed, so the folder has a fixed name and the test unpacks it there.
set -eu
commit=$1
project=$(cd "${0%/*}/../../.." && pwd)
root=/tmp/picture-features-earlier
work=$(mktemp -d)
trap 'git -C "$project" worktree remove --force "$work/code"; rm -rf "$work" $root' EXIT
trap 'exit 1' INT TERM
export XDG_STATE_HOME="$work/state" PICTURE_FEATURES_STREAM__SETTLE=0s PICTURE_FEATURES_SPARK__MASTER='local[2,4]'

python() {
    "$project/.venv/bin/python" "$@"
}

earlier() {
    printf '$ python -m %s\n' "$*"
    (cd "$work/code" && PYTHONPATH="$work/code" python -m "$@")
}

fit() {
    earlier batch_fit fit --input $root/in --models $root/models --weights "$work/tiny.tflite" "$@"
}

replay() {
    earlier "$@" streaming replay --input $root/in --models $root/models --output $root/out \
        --max-pictures 5 --epoch-manifests 2
}

export_to() { # FOLDER
    folder=$1
    shift
    earlier streaming export --output $root/out --to "$root/$folder" "$@"
}

arrive() { # DAY SEED COUNT BROKEN: small pictures, whose times are whole seconds
    (cd "$project" && python -m tests.support.samples "$root/in/$1" --size 32 --seed "$2" --pictures "$3" --broken "$4")
    find "$root/in/$1" -type f -exec touch -d '2026-01-31 12:00:00 UTC' {} +
}

rm -rf $root
git -C "$project" worktree add --detach --quiet "$work/code" "$commit"

# A backbone of 6 kB instead of 9 MB: twelve means of the picture, and zeros. With it, all files of a model are small.
CUDA_VISIBLE_DEVICES='' python - "$work/tiny.tflite" >/dev/null 2>&1 <<'END'
import sys
from pathlib import Path

import keras
import tensorflow as tf

pixels = keras.Input((224, 224, 3), batch_size=1)
means = keras.layers.Reshape((12, 1))(keras.layers.AveragePooling2D(112)(pixels))
features = keras.layers.Flatten()(keras.layers.ZeroPadding1D((0, 1268))(means))
Path(sys.argv[1]).write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras.Model(pixels, features)).convert())
END

arrive monday 0 12 3
fit --k 3 --save-features $root/saved
replay # 15 files in 3 manifests, some of them folded
arrive tuesday 1 6 0
fit --k 4 --from "$(basename $root/models/2*)"
replay # two more manifests, with the second model
export_to exports
export_to csv --format csv
earlier streaming forget "$root/in/monday/Plum/000005.jpg" --prefix $root/in/tuesday/Plum/ --output $root/out

arrive wednesday 2 8 0
# In later commits, it is tests.support.killing.
replay tests.killing before create 'features/date=*/2*' 2 || echo 'killed: of two manifests, one is finished'
arrive thursday 3 2 0
earlier streaming reconcile --input $root/in --output $root/out --enqueue
cp "$root/in/monday/Apple Red/000000.jpg" "$root/in/monday/Apple Red/broken_000000.jpg" # mended
touch -d '2026-01-31 13:00:00 UTC' "$root/in/monday/Apple Red/broken_000000.jpg"
earlier streaming quarantine retry --output $root/out --reason corrupt
export_to exports

tar --create --xz --format posix --sort name --owner 0 --group 0 --numeric-owner --directory $root \
    --file "$project/tests/system/data/earlier.tar.xz" .
ls -l "$project/tests/system/data/earlier.tar.xz"
