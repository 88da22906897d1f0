"""Similar pictures: the rows of a table that are nearest to a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conf.answers import Answer, Row
from conf.aws.connection import S3Connection
from conf.plural import plural
from conf.settings import Settings
from streaming.features.schema import label_of
from streaming.search.choices import Metric
from streaming.search.nearest import rank
from streaming.search.query import make_query
from streaming.search.scan import details
from streaming.search.table import explain_models, no_rows_of, open_table

_COLUMNS = ("predicted_label", "confidence", "sha256", "captured_at")


@dataclass(frozen=True)
class SimilarRequest:
    """The question.

    Attributes:
        picture: URI of a picture, or the `path` of a row.
        table: URI of an output, a folder of exports or a snapshot; None for that of the settings.
        count: the number of pictures to find.
        metric: the distance.
        model: whose rows are compared; None for that of the picture's row, or of the latest rows.
    """

    picture: str
    table: str | None = None
    count: int = 10
    metric: Metric = "cosine"
    model: str | None = None


@dataclass(frozen=True)
class Match:
    """A picture that was found.

    Attributes:
        rank: 1 is the nearest.
        path, predicted_label, confidence, sha256, captured_at: as in the table.
        label: the name of its folder.
        distance: from the picture that was asked for.
    """

    rank: int
    path: str
    label: str
    predicted_label: str | None
    confidence: float | None
    sha256: str | None
    captured_at: str | None
    distance: float


@dataclass(frozen=True)
class Similar(Answer):
    """The pictures nearest to one.

    Attributes:
        picture: its raw key.
        in_table: whether the table has a row of it of this model, which is then not among the matches.
        table: canonical path of the output or snapshot.
        model: of the features that were compared.
        metric: the distance.
        compared: the number of rows.
        left_out: the number of rows of other models.
        matches: the nearest first.
        page: the page that shows them; None if none was written.
    """

    picture: str
    in_table: bool
    table: str
    model: str
    metric: Metric
    compared: int
    left_out: int
    matches: Sequence[Match]
    page: str | None = None

    def rows(self) -> Iterator[Row]:
        """What was compared, and for each picture its rank, distance, label and path."""
        without = "the table has no row of it of this model; featurized as the rows were"
        row = "a row of the table" if self.in_table else without
        yield "picture", f"{self.picture} ({row})"
        yield "table", self.table
        yield "model", self.model
        yield "compared", f"{plural(self.compared, 'row')}, {self.metric} distance"
        if self.left_out:
            yield "left out", f"{plural(self.left_out, 'row')} of other models; {explain_models()}"
        if self.page:
            yield "page", self.page
        cells = [_cells(match) for match in self.matches]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        yield ""
        for match, of_match in zip(self.matches, cells, strict=True):
            yield "  ".join((*map(str.ljust, of_match, widths), match.path))

    def next_step(self) -> str | None:
        """To look at them, if there is no page yet."""
        return "the same command with --html similar.html" if self.page is None else None


def _cells(match: Match) -> tuple[str, str, str]:
    predicted = (
        f"{match.predicted_label} ({match.confidence:.0%})" if match.predicted_label and match.confidence else ""
    )
    label = f"{match.label} -> {predicted}" if predicted and match.predicted_label != match.label else match.label
    return str(match.rank), f"{match.distance:.4f}", label or "-"


def similar(settings: Settings, request: SimilarRequest) -> Similar:
    """The rows that are nearest to a picture.

    Raises:
        SettingsError: the table, its files or the model do not allow it.
        InputError: the picture is forgotten, is not there, or cannot be used.
        OutputError: there is no such table, or a file of it is damaged.
        ModelError: the picture's model cannot be used.
    """
    connection = S3Connection.of(settings.s3)
    table = open_table(settings, request.table, connection)
    query = make_query(settings, table, request.picture, request.model, connection)
    while True:
        denylist = table.denylist()
        ranked = rank(table, query, request.metric, request.count, denylist)
        rows = details(table, [(one.file, one.path) for one in ranked.neighbours], _COLUMNS)
        gone = len(rows) < len({one.path for one in ranked.neighbours})
        if not gone and table.denylist().ids == denylist.ids:
            break  # else pictures were forgotten meanwhile: search without them
    if not ranked.compared and not query.in_table:
        raise no_rows_of(table, query.model, ranked.left_out)
    matches = [
        Match(
            rank=place,
            path=one.path,
            label=label_of(one.path),
            distance=one.distance,
            **{column: rows[one.path][column] for column in _COLUMNS},
        )
        for place, one in enumerate(ranked.neighbours, start=1)
    ]
    return Similar(
        picture=query.path,
        in_table=query.in_table,
        table=table.path,
        model=query.model,
        metric=request.metric,
        compared=ranked.compared,
        left_out=ranked.left_out,
        matches=matches,
    )
