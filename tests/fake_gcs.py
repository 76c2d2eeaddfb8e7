"""A stand-in for Google Cloud Storage: as much of its JSON API as gcsfs and TensorStore call, kept in memory.

https://cloud.google.com/storage/docs/json_api/v1
"""

import base64
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

PATH = re.compile(
    "(?:/upload|/download)?/storage/v1/b/(?P<bucket>[^/]+)(?P<objects>/o)?(?:/(?P<name>[^/]+))?"
    "(?:/(?P<verb>rewriteTo|copyTo|moveTo)/(?:b/(?P<to_bucket>[^/]+)/)?o/(?P<to_name>[^/]+))?"
)
PAGE = 7  # entries of a page of a listing, so that each one is paged; the real store gives 1,000

Answer = tuple[int, dict[str, str], bytes]


class Object(NamedTuple):
    data: bytes
    generation: int
    updated: float


class Refusal(Exception):
    """An answer other than success: a status and a message."""


class FakeGCS:
    """The store, served while its context lasts.

    Attributes:
      objects: bucket -> name -> object, to look into and to damage.
      refuse: (method, bucket, name) -> status to answer in place of doing as asked, or None; name is "" for a bucket.
    """

    def __init__(self, *buckets: str):
        self.objects: dict[str, dict[str, Object]] = {bucket: {} for bucket in buckets}
        self.refuse: Callable[[str, str, str], int | None] = lambda method, bucket, name: None
        self._begun: dict[str, bytes] = {}  # resumable uploads, and what has come of each
        self._lock, self._numbers = threading.RLock(), itertools.count(1)
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeGCS":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What points both libraries here, without credentials and without a search for any."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "FSSPEC_GCS_TOKEN": "anon",
            "NO_GCE_CHECK": "true",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore's
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for a bucket's kind by gRPC, which is not served
        }

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(name for name in self.objects[bucket] if name.startswith(prefix))

    def put(self, bucket: str, name: str, data: bytes) -> dict:
        """Writes an object; its resource."""
        with self._lock:
            self.objects[bucket][name] = Object(data, next(self._numbers), time.time())
            return self._resource(bucket, name)

    def answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Answer:
        match = PATH.fullmatch(path)
        if match is None:
            raise Refusal(501, f"{method} {path} is not served")
        part = {key: unquote(value or "") for key, value in match.groupdict().items()}
        bucket, name = part["bucket"], part["name"] or query.get("name", "")
        if query.get("uploadType") == "multipart":
            name, body = _parts(body, headers["content-type"])
        status = self.refuse(method, bucket, name)
        if status is not None:
            raise Refusal(status, f"{method} {bucket}/{name} is refused")
        with self._lock:
            if bucket not in self.objects:
                raise Refusal(404, "The specified bucket does not exist.")
            if path.startswith("/upload"):
                return self._upload(bucket, name, query, headers, body)
            if not name:
                return _json(self._listing(bucket, query) if part["objects"] else {"name": bucket})
            self._check(bucket, name, query)
            if name not in self.objects[bucket]:
                raise Refusal(404, f"No such object: {bucket}/{name}")
            if part["verb"]:
                return self._copied(bucket, name, part["verb"], part["to_bucket"] or bucket, part["to_name"])
            if method == "DELETE":
                del self.objects[bucket][name]
                return 204, {}, b""
            media = query.get("alt") == "media"
            return self._content(bucket, name, headers) if media else _json(self._resource(bucket, name))

    def _check(self, bucket: str, name: str, query: dict[str, str]) -> None:
        """Raises Refusal if what the request takes for granted is not so; a missing object is of generation 0."""
        found = self.objects[bucket].get(name)
        generation = str(found.generation if found else 0)
        if query.get("ifGenerationMatch", generation) != generation:
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")
        if query.get("ifGenerationNotMatch") == generation:
            raise Refusal(304, "")

    def _resource(self, bucket: str, name: str) -> dict:
        found = self.objects[bucket][name]
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.updated))
        return {
            "kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(found.data)),
            "generation": str(found.generation), "metageneration": "1", "timeCreated": when, "updated": when,
            "md5Hash": base64.b64encode(hashlib.md5(found.data).digest()).decode(),
        }  # fmt: skip

    def _content(self, bucket: str, name: str, headers: dict[str, str]) -> Answer:
        found = self.objects[bucket][name]
        extra = {"x-goog-generation": str(found.generation), "content-type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
        if wanted is None:
            return 200, extra, found.data
        size, (first, last) = len(found.data), wanted.groups()
        begin = int(first) if first else max(0, size - int(last))
        end = min(int(last) + 1, size) if first and last else size
        if begin >= size:
            raise Refusal(416, "The requested range cannot be satisfied.")
        return 206, extra | {"content-range": f"bytes {begin}-{end - 1}/{size}"}, found.data[begin:end]

    def _listing(self, bucket: str, query: dict[str, str]) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        entries: dict[str, bool] = {}  # what is listed, in order -> whether it stands for all that begin so
        for name in self.names(bucket, prefix):
            if name < query.get("startOffset", "") or name >= query.get("endOffset", chr(0x10FFFF)):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            entry = name if cut < 0 else name[: cut + 1]
            if entry > query.get("pageToken", ""):
                entries[entry] = cut >= 0
        page = list(entries)[: min(PAGE, int(query.get("maxResults", PAGE)))]
        return {
            "kind": "storage#objects",
            "items": [self._resource(bucket, entry) for entry in page if not entries[entry]],
            "prefixes": [entry for entry in page if entries[entry]],
        } | ({"nextPageToken": page[-1]} if len(page) < len(entries) else {})

    def _copied(self, bucket: str, name: str, verb: str, to_bucket: str, to_name: str) -> Answer:
        made = self.put(to_bucket, to_name, self.objects[bucket][name].data)
        if verb == "moveTo":
            del self.objects[bucket][name]
        return _json({"done": True, "resource": made} if verb == "rewriteTo" else made)

    def _upload(self, bucket: str, name: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Answer:
        """At once, or begun here and sent in pieces to the location answered."""
        key = query.get("upload_id")
        if query["uploadType"] == "resumable" and key is None:
            key = str(next(self._numbers))
            self._begun[key] = b""
            again = urlencode(query | {"name": name, "upload_id": key})
            return 200, {"location": f"{self.url}/upload/storage/v1/b/{bucket}/o?{again}"}, b""
        if key is not None:
            self._begun[key] = body = self._begun[key] + body
            if headers["content-range"].endswith("/*"):  # more is to come
                return 308, {"range": f"bytes=0-{len(body) - 1}"}, b""
        self._check(bucket, name, query)
        return _json(self.put(bucket, name, body))


def _parts(body: bytes, content_type: str) -> tuple[str, bytes]:
    """(name, data) of an upload of two parts: the object's resource, and its data."""
    boundary = b"--" + re.search('boundary="?([^";]+)', content_type).group(1).encode()
    resource, data = body.split(boundary)[1], body.split(boundary, 2)[2].rsplit(boundary, 1)[0]
    head = re.compile(rb"^\r?\n.*?\r?\n\r?\n", re.DOTALL)
    return json.loads(head.sub(b"", resource, count=1))["name"], re.sub(rb"\r?\n$", b"", head.sub(b"", data, count=1))


def _json(value: dict) -> Answer:
    return 200, {"content-type": "application/json"}, json.dumps(value).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """A client that is killed leaves its connections as they are."""


class _Handler(BaseHTTPRequestHandler):
    store: FakeGCS
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        url, query = urlsplit(self.path), dict(parse_qsl(urlsplit(self.path).query))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            status, extra, content = self.store.answer(self.command, url.path, query, headers, body)
        except Refusal as refusal:
            status, message = refusal.args
            _, extra, content = _json({"error": {"code": status, "message": message}})
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if status not in (204, 304) else b"")

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *_) -> None:
        pass
