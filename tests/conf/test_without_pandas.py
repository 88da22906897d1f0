"""Processes without pandas."""

from __future__ import annotations

import subprocess
import sys

from tests.support.streams import PROJECT


def test_pandas_is_not_imported_by_pyarrow_until_it_is_admitted() -> None:
    script = (
        "import sys\n"
        "from conf.without_pandas import admit_pandas, keep_out_pandas\n"
        "keep_out_pandas()\n"
        "import pyarrow as pa; pa.array([1, 2])\n"
        "print('pandas' in sys.modules)\n"
        "admit_pandas()\n"
        "import pandas; print(pandas.DataFrame({'a': [1]}).a.sum())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
