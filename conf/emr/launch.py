"""What spark-submit starts on a cluster: `launch.py MODULE ARGUMENTS...` is `python -m MODULE ARGUMENTS...`.

It owns nothing and knows nothing: spark-submit takes a file, and the programs are packages in the code zip.
"""

import runpy
import sys

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
