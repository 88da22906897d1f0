"""The README's commands, run as they stand there, on real photographs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from conf import errors
from streaming.discovery.notifications import read_notification
from tests.support.data import shared_data
from tests.support.pages import block, run_commands, run_python, start_commands, unlisted
from tests.support.queues import new_notifying_bucket
from tests.support.servers import answers, free_port
from tests.support.streams import PROJECT

pytestmark = pytest.mark.usefixtures("programs")

README = (PROJECT / "README.md").read_text(encoding="utf-8")
FORMATS = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")


def _add(fruit: Path, folder: Path, most: int = 20) -> int:
    """Copy photographs of a fruit into the input; returns how many."""
    target = folder / "pictures" / fruit.name
    target.mkdir(parents=True)
    photographs = sorted(fruit.glob("*.jpg"))[:most]
    for photograph in photographs:
        shutil.copy(photograph, target)
    return len(photographs)


def _assert_the_readme_reads(folder: Path, pictures: int) -> None:
    """The first lines fit a terminal of 80 columns; those after them go on from there."""
    read = block(README, "python", "import pandas\n\nfeatures")
    said = run_python(read, folder).splitlines()
    assert said[0].split() == ["label", "features"]
    assert len(said) == 6  # pandas wraps what is too wide
    assert max(map(len, said)) <= 80
    day = max(file.parent.name for file in folder.glob("table/features/date=*/2*.parquet")).removeprefix("date=")
    go_on = block(README, "python", "matplotlib").replace("2026-01-31", day)
    said = run_python(f'{read}{go_on}print("rows", len(features), len(rows), len(day) > 0)\n', folder).splitlines()
    assert said[6].split() == ["label", "distance"]
    assert float(said[7].split()[-1]) == 0
    assert said[-1] == f"rows {pictures} {pictures} True"
    assert (folder / "components.png").stat().st_size > 0
    [picture, *_] = sorted(folder.glob("pictures/*/*.jpg"))
    door = block(README, "python", "streaming.api").replace("IMG_1.jpg", str(picture))
    label, nearest, *others = run_python(door, folder).splitlines()
    assert label.split()[:2] == ["None", "None"]  # this model has no classifier
    assert nearest == f"0.000  {picture}"
    assert len(others) == 4


def test_the_readme_does_what_it_says(tmp_path: Path, wait_for: Callable[[Callable[[], bool]], None]) -> None:
    """Fit, replay, run, read, export, refit, roll back and stop, in the order of the page."""
    fruits = sorted((shared_data() / "fruits360").iterdir())
    here = {"pictures": sum(_add(fruit, tmp_path) for fruit in fruits[:6])}

    said = run_commands(block(README, "sh", "--variance 0.9"), tmp_path)
    assert re.search(r"components +\d+, which keep 9\d\.\d% of the variance\nweights +imagenet", said)
    assert f"pictures     {here['pictures']}" in said
    said = run_commands(block(README, "sh", "streaming replay"), tmp_path)
    assert f"features     {here['pictures']} rows" in said
    assert "nothing new" in run_commands(block(README, "sh", "streaming replay"), tmp_path)

    stream = start_commands(block(README, "sh", "streaming run"), tmp_path)
    here["pictures"] += sum(_add(fruit, tmp_path) for fruit in fruits[6:8])
    table = tmp_path / "table" / "features"
    wait_for(lambda: ds.dataset(table, format="parquet").count_rows() == here["pictures"])
    _assert_the_readme_reads(tmp_path, here["pictures"])
    assert "all well" in run_commands(block(README, "sh", "streaming reconcile"), tmp_path)
    assert "would remove 0 rows" in run_commands(block(README, "sh", "streaming forget"), tmp_path)
    said = run_commands(block(README, "sh", "streaming export"), tmp_path)
    assert said.count(f"rows         {here['pictures']} of") == 2
    asked = f"pictures/{fruits[0].name}/{next((tmp_path / 'pictures' / fruits[0].name).iterdir()).name}"
    said = run_commands(block(README, "sh", "streaming similar").replace("PICTURE", shlex.quote(asked)), tmp_path)
    assert said.count(f"compared     {here['pictures'] - 1} rows") == 1
    assert "of the same scene" in said
    assert all((tmp_path / f"{name}.html").is_file() for name in ("similar", "duplicates"))
    snippet = block(README, "python", "read_csv") + 'print("rows", len(features), len(frame))\n'
    said = run_python(snippet, tmp_path)
    assert said.endswith(f"rows {here['pictures']} {here['pictures']}\n")
    [first] = [path.name for path in (tmp_path / "models").glob("2*")]
    run_commands(block(README, "sh", "--from VERSION").replace("VERSION", first), tmp_path)
    [second] = {path.name for path in (tmp_path / "models").glob("2*")} - {first}
    said = run_commands(block(README, "sh", "--embeddings table"), tmp_path)
    assert f"pictures     {here['pictures']}" in said
    said = run_commands(block(README, "sh", "models rollback"), tmp_path)
    assert f"\ncurrent      {second}\n" in said
    run_commands(block(README, "sh", "streaming stop"), tmp_path)
    said, _ = stream.communicate(timeout=180)
    assert stream.returncode == 0, said
    written = {
        "table": "An output",
        "exports": "A folder of exports",
        "csv": "A folder of exports",
        "models": "A registry",
    }
    for folder, heading in written.items():
        assert unlisted(FORMATS, heading, tmp_path / folder) == []


def test_the_readme_does_what_it_says_on_s3(
    tmp_path: Path, wait_for: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of the page, pictures in it, fit and replay."""
    here = sum(_add(fruit, tmp_path) for fruit in sorted((shared_data() / "fruits360").iterdir())[:2])
    port = str(free_port())
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    serve = block(README, "bash", "moto.server").replace("5555", port).strip()
    store = start_commands(f"exec {serve} >moto.log 2>&1", tmp_path)
    try:
        prepare = block(README, "bash", "upload_file").replace("5555", port)
        wait_for(lambda: answers(f"http://127.0.0.1:{port}"))
        use = block(README, "bash", "s3a://pictures/2026 --models s3a://features/models --output")
        said = run_commands(prepare + use, tmp_path)
    finally:
        store.terminate()
        store.communicate()
    assert f"features     {here} rows in s3://features/table/features" in said


def test_the_notification_of_the_readme_brings_what_lands_in_the_input(
    moto_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON of its command, as it stands; the AWS command line itself is not installed here."""
    said = re.search(r"aws s3api put-bucket-notification-configuration .*? '(.*?)'\n", README, re.DOTALL)
    assert said
    with new_notifying_bucket(moto_address, monkeypatch) as bucket:
        attributes = bucket.sqs.get_queue_attributes(QueueUrl=bucket.url, AttributeNames=["QueueArn"])["Attributes"]
        bucket.s3.put_bucket_notification_configuration(
            Bucket=bucket.name,
            NotificationConfiguration=json.loads(said[1].replace("QUEUE_ARN", attributes["QueueArn"])),
        )
        bucket.lose_messages()
        for key in ("input/a.jpg", "elsewhere/b.jpg"):
            bucket.s3.put_object(Bucket=bucket.name, Key=key, Body=b"123")
        [body] = bucket.bodies()
        [picture] = read_notification(body, f"s3://{bucket.name}/input").pictures
    assert picture.path == f"s3://{bucket.name}/input/a.jpg"


def test_every_exit_code_is_the_readmes() -> None:
    """The table and the error classes say the same."""
    codes = {
        cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.AppError)
    }
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)} == codes | {0, 130}
