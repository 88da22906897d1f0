"""A synthetic store and queue: a server that answers boto3 as S3 and SQS do, for any number of keys.

It implements pages of ListObjectsV2, ReceiveMessage and DeleteMessageBatch, because no server that could be installed
here takes a million objects in minutes. The client's side of each request is real: boto3, signatures, HTTP on loopback,
parsing. The latency of a network is missing: some 10 ms to 50 ms a request.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote_plus, urlsplit

BUCKET = "pictures"
PREFIX = "in"
QUEUE_URL = "http://queue/pictures"
VISIBILITY_SECONDS = 300

_PAGE = 1000
_TIME = "2026-01-31T12:00:00.000Z"


@contextmanager
def serving(objects: int, messages: int) -> Iterator[str]:
    """A bucket of `objects`, and a queue with events of as many more as `messages`, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, objects, messages), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def deleted(address: str) -> int:
    """The number of messages that were deleted so far."""
    with urllib.request.urlopen(f"{address}/deleted") as answer:
        return int(answer.read())


def _serve(connection: Connection, objects: int, messages: int) -> None:
    _Handler.objects = objects
    _Handler.events = iter(range(objects, objects + messages))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    connection.send(server.server_port)
    server.serve_forever()


def _key(number: int) -> str:
    return f"{PREFIX}/camera-{number % 97:02}/2026-01-31/frame {number:09}.jpg"


def _tag(number: int) -> str:
    return f"{number:032x}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    wbufsize = -1  # an answer is one packet
    disable_nagle_algorithm = True
    objects: ClassVar[int]
    events: ClassVar[Iterator[int]]
    lock: ClassVar[threading.Lock] = threading.Lock()
    done: ClassVar[int] = 0

    def do_GET(self) -> None:
        if self.path == "/deleted":
            self._answer(str(_Handler.done).encode(), "text/plain")
            return
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("continuation-token", ["0"])[0])
        end = min(start + _PAGE, self.objects)
        entries = "".join(
            f"<Contents><Key>{quote_plus(_key(number), safe='/')}</Key><LastModified>{_TIME}</LastModified>"
            f"<ETag>&quot;{_tag(number)}&quot;</ETag><Size>{5000 + number % 1000}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for number in range(start, end)
        )
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < self.objects else ""
        self._answer(
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{PREFIX}/</Prefix><KeyCount>{end - start}</KeyCount><MaxKeys>{_PAGE}"
            f"</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
            f"{entries}</ListBucketResult>".encode(),
            "application/xml",
        )

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match self.headers["X-Amz-Target"].rpartition(".")[2]:
            case "ReceiveMessage":
                answer = self._receive(asked)
            case "DeleteMessageBatch":
                with self.lock:
                    _Handler.done += len(asked["Entries"])
                answer = {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]], "Failed": []}
            case _:
                answer = {"Attributes": {"VisibilityTimeout": str(VISIBILITY_SECONDS)}}
        self._answer(json.dumps(answer).encode(), "application/x-amz-json-1.0")

    def _receive(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            numbers = list(islice(self.events, asked["MaxNumberOfMessages"]))
        if not numbers:
            time.sleep(asked["WaitTimeSeconds"])
        return {"Messages": [_message(number) for number in numbers]}

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Nothing: a line for each request would be measured too."""


def _message(number: int) -> dict[str, str]:
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-3",
        "eventTime": _TIME,
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "AWS:AIDAEXAMPLEEXAMPLEEXA"},
        "requestParameters": {"sourceIPAddress": "203.0.113.7"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8" * 7},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "pictures",
            "bucket": {
                "name": BUCKET,
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": f"arn:aws:s3:::{BUCKET}",
            },
            "object": {
                "key": quote_plus(_key(number), safe="/"),
                "size": 5000 + number % 1000,
                "eTag": _tag(number),
                "sequencer": f"{number:018X}",
            },
        },
    }
    body = json.dumps({"Records": [record]})
    digest = hashlib.md5(body.encode()).hexdigest()
    return {"MessageId": f"{number:036}", "ReceiptHandle": f"{number:0180}", "MD5OfBody": digest, "Body": body}
