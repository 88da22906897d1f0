"""A report that shows or names a forgotten picture is taken out of its model, thumbnails and all."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from batch_fit.report.charts import scatter_chart
from batch_fit.report.pictures import Sample
from batch_fit.sample import write_identities
from conf.loading import load_settings
from conf.pages.environment import page_environment
from streaming.features.thumbnails import thumbnails
from streaming.forget.models import erase_in_model, find_models
from streaming.lease.denylist import Denylist, Entry
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import identity_of
from streaming.storage.locations import open_folder
from tests.support.models import promote_model

NOW = datetime(2026, 1, 31, tzinfo=UTC)
_THUMB = '{% from "parts.html.j2" import thumb %}{{ thumb(path, thumbnail, "said") }}'


def _with_thumbnail(path: str) -> str:
    """The part of a page that shows a picture."""
    thumbnail = thumbnails(load_settings({}), [(path, None)], 96)[path]
    assert thumbnail.uri
    return page_environment("conf.pages").from_string(_THUMB).render(path=path, thumbnail=thumbnail)


def _with_point(path: str) -> str:
    """The part of a page in which it is a point."""
    sample = Sample([path], ["a"], np.ones((1, 2), np.float32))
    return scatter_chart(sample, ["a"], np.array([0.6, 0.4]))


@pytest.mark.parametrize("part", [_with_thumbnail, _with_point])
@pytest.mark.parametrize("by", ["path", "prefix", "identity"])
def test_its_report_is_gone_as_a_whole(part: object, by: str, pictures: list[Path], tmp_path: Path) -> None:
    """Found by its path or its prefix in the page, or by its identity among the pictures of the model."""
    assert callable(part)
    path = str(pictures[0])
    models = open_folder(str(tmp_path / "models"))
    version = promote_model(tmp_path / "models", b"a backbone", k=2, seed=0)
    report: str = part(path)
    models.create(f"{version}/{bundle.REPORT}", report.encode())
    models.create(f"{version}/{bundle.IDENTITIES}", write_identities({identity_of(path)}))
    entry = Entry.of([path] if by == "path" else [], [path[:-3]] if by == "prefix" else [], b"salt", NOW)
    found = {identity_of(path)} if by == "identity" else set()
    denylist = Denylist([entry])
    [affected] = find_models(models, denylist, found.__contains__)
    erase_in_model(models, affected)
    left = models.read(f"{version}/{bundle.REPORT}").decode()
    assert "The report of this model was removed" in left
    assert "data:image" not in left
    assert path not in left
    assert Registry(models).current() == version
    others = Denylist([Entry.of(["/in/other.jpg"], ["/in/"], b"salt", NOW)])
    models.delete(f"{version}/{bundle.REPORT}")
    models.create(f"{version}/{bundle.REPORT}", report.encode())
    assert not any(model.pictures for model in find_models(models, others, set().__contains__))
