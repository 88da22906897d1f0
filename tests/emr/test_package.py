"""What runs on a cluster: that it is whole, of the right platform, and the same each time."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import zipfile
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import cast

import pyspark
import pytest

from conf.emr.package import Package, Platform, build, is_needed, locked
from conf.errors import PlatformError, SettingsError

HERE = cast("Platform", platform.machine())
MOST_BYTES = 300 * 10**6

# All that driver and workers import, and a call of what lies in data files or shared objects.
USE_ALL = """
import batch_fit.__main__, streaming.__main__
import streaming.discovery.sqs, streaming.features.featurizer, conf.emr.spark_submit
import boto3, pandas, pyarrow.dataset, pyarrow.parquet
from ai_edge_litert.interpreter import Interpreter
from PIL import features
from batch_fit.report.report import template
template()
assert features.check("jpg") and features.check("webp")
for service in "glue", "logs", "s3", "sqs", "sts":
    boto3.client(service, region_name="eu-west-3", aws_access_key_id="-", aws_secret_access_key="-")
assert pandas.DataFrame({"a": [pandas.Timestamp.now("UTC")]}).to_parquet()
"""


def _names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


@pytest.mark.yarn
@pytest.mark.usefixtures("yarn_jars")  # fetched while the packages are built, as test_yarn.py needs them
def test_a_plain_interpreter_runs_the_programs_from_the_package(
    package: Package, node_python: str, tmp_path: Path
) -> None:
    """With nothing but the two archives and Spark's own (-S hides all else), as in a container of YARN."""
    shutil.unpack_archive(package.dependencies, tmp_path / "dependencies")
    spark = [str(file) for file in Path(pyspark.__file__).parent.glob("python/lib/*.zip")]
    path = os.pathsep.join(["dependencies", str(package.code), *spark])
    done = subprocess.run(
        [node_python, "-S", "-c", USE_ALL],
        cwd=tmp_path,
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.yarn
def test_the_archive_is_small_and_holds_what_the_lock_file_says(package: Package) -> None:
    """Neither what Spark brings nor what nobody imports; licences stay."""
    assert package.dependencies.stat().st_size < MOST_BYTES
    names = _names(package.dependencies)
    assert len(names) < 2500
    top = {name.partition("/")[0] for name in names}
    assert {"numpy", "pandas", "pyarrow", "PIL", "ai_edge_litert", "botocore", "pydantic", "jinja2"} <= top
    assert not {"pyspark", "py4j", "tensorflow"} & top
    assert any("LICENSE" in name for name in names)
    code = _names(package.code)
    assert {name.partition("/")[0] for name in code} == {"batch_fit", "conf", "streaming"}
    assert "conf/emr.yaml" in code


@pytest.mark.yarn
def test_two_builds_are_the_same_bytes(packages: dict[str, Future[Package]]) -> None:
    """So what was uploaded once need not be again, and one can tell what runs from its hash."""
    package, again = packages["here"].result(), packages["again"].result()
    for one, other in ((package.code, again.code), (package.dependencies, again.dependencies)):
        assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


@pytest.mark.yarn
def test_each_platform_gets_shared_objects_of_its_own(packages: dict[str, Future[Package]]) -> None:
    """The field e_machine of an ELF header is 183 for aarch64 and 62 for x86_64."""
    package = packages["there"].result()
    assert package.dependencies.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(package.dependencies) as archive:
        heads = [archive.open(name).read(20) for name in archive.namelist()]
    machines = {int.from_bytes(head[18:20], "little") for head in heads if head.startswith(b"\x7fELF")}
    assert machines == {183 if HERE == "x86_64" else 62}


def test_the_lock_file_is_asked_for_the_nodes_python_and_for_what_spark_does_not_bring() -> None:
    """An entry is its hashes, too; a marker may be another's on the Python that runs this."""
    numpy, spark = (
        "numpy==2 \\\n    --hash=a\n    # via pandas\n",
        "py4j==1 \\\n    --hash=b\npyspark==4 \\\n    --hash=c\n",
    )
    pinned = "contourpy==1 ; python_full_version < '3.12' \\\n    --hash=d\n"
    others = (
        "contourpy==2 ; python_full_version >= '3.12' \\\n    --hash=e\n",
        "colorama==1 ; sys_platform == 'win32' \\\n    --hash=f\n",
        "grpc==1 ; platform_machine == 'x86_64' \\\n    --hash=g\n",
    )
    lock = locked(f"# a comment\n{numpy}{spark}{pinned}{''.join(others)}", "aarch64")
    assert lock == numpy + "contourpy==1 \\\n    --hash=d\n"


@pytest.mark.parametrize(
    ("file", "needed"),
    [
        ("numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so", True),
        ("numpy/_core/include/numpy/arrayobject.h", False),
        ("numpy/testing/__init__.py", True),
        ("numpy/linalg/tests/test_linalg.py", False),
        ("botocore/data/endpoints.json", True),
        ("botocore/data/s3/2006-03-01/service-2.json.gz", True),
        ("botocore/data/ec2/2016-11-15/service-2.json.gz", False),
        ("pytz/zoneinfo/Europe/Paris", False),
        ("boto3-1.44.5.dist-info/RECORD", False),
        ("boto3-1.44.5.dist-info/METADATA", True),
        ("numpy-2.4.6.dist-info/licenses/numpy/random/LICENSE.md", True),
    ],
)
def test_what_is_of_use_on_a_node(file: str, *, needed: bool) -> None:
    """Fewer files start sooner."""
    assert is_needed(PurePosixPath(file)) is needed


def test_what_cannot_be_packaged_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the platform, the file or the wheel, and what to do."""
    with pytest.raises(SettingsError, match="platform: 'arm' is not allowed: choose from x86_64, aarch64"):
        build("arm", tmp_path)  # type: ignore[arg-type] # what a person may type
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"package: cannot write .*file.*: "):
        build(HERE, tmp_path / "file" / "folder")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"tqdm==4.67.1 \\\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr("conf.emr.package._LOCK", lock)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PlatformError, match=f"pip cannot take the wheels for {HERE}: .*tqdm"):
        build(HERE, tmp_path / "no-wheels")
