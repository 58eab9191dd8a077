"""Fetching gives complete bytes or an error, and no error has a signature."""

from __future__ import annotations

import contextlib
import pickle
import time
import traceback

import pytest
from support.strategies import Answer, serve_file

from coffea_sx.errors import AccessError, ObjectGone, ReadError, Truncated
from coffea_sx.servicex.models import SignedUrl
from coffea_sx.storage.policy import ReadPolicy
from coffea_sx.storage.transport import fetch
from coffea_sx.wire.clock import Limits

CONTENT = bytes(range(256)) * 40
GOOD = serve_file(CONTENT)


def s3_error(status, code):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


def part(start, stop, body=None, tag=None, **more):
    """Answer 206 with a range, and perhaps another body."""
    where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(CONTENT)}"}
    where |= {"ETag": tag} if tag else {}
    return Answer(206, CONTENT[start:stop] if body is None else body, where, **more)


class Store:
    """A store with faults: each fault replaces one answer, then it is good."""

    def __init__(self, scripted, *faults, forever=False):
        self.faults, self.forever = list(faults), forever
        self.server = scripted(self.play)
        self.refreshed: list[bool] = []

    def play(self, request):
        if self.forever:
            return self.faults[0]
        return self.faults.pop(0) if self.faults else GOOD(request)

    def get_url(self, refresh):
        self.refreshed.append(refresh)
        n = len(self.refreshed)
        url = f"{self.server.url}/b/o?X-Amz-Signature=CANARY{n}"
        return SignedUrl(url, {"X-Token": "CANARY"}, time.time() + 600)

    def fetch(self, start=100, stop=300, wanted=None, *, retry_s=3.0, **more):
        policy = ReadPolicy(retry_s=retry_s, **more)
        return fetch(":data:o.root", self.get_url, start, stop, wanted, policy)


@pytest.fixture
def store(scripted):
    return lambda *faults, **options: Store(scripted, *faults, **options)


def text_of(error):
    """Return all text that may be printed or sent of an error."""
    seen, chain = set(), [error]
    texts = []
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += [link.__cause__, link.__context__]
        texts += [repr(link), str(link), repr(vars(link))]
    texts += traceback.format_exception(error)
    return "\n".join(texts) + repr(pickle.dumps(error))


def test_a_range_and_the_size(store):
    good = store()
    assert good.fetch(100, 300) == ([CONTENT[100:300]], len(CONTENT), '"one"')
    assert good.fetch(0, 1) == ([CONTENT[:1]], len(CONTENT), '"one"')
    assert good.fetch(0, len(CONTENT)).data == CONTENT
    assert good.refreshed == [False] * 3
    assert good.server.asked[0].headers["X-Token"] == "CANARY"


def test_less_comes_back_at_the_end(store):
    assert store().fetch(len(CONTENT) - 5, len(CONTENT) + 100).data == CONTENT[-5:]


def test_beyond_the_end(store):
    assert store().fetch(len(CONTENT), len(CONTENT) + 10).data == b""
    assert store().fetch(len(CONTENT) + 5, len(CONTENT) + 10).data == b""


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "fault",
    [
        *(Answer(status) for status in (408, 429, 500, 502, 503, 504)),
        s3_error(503, "SlowDown"),
        part(100, 300, CONTENT[100:200]),
        part(100, 300, CONTENT[100:200], claims=200),
        part(100, 200),
        part(0, 200),
        part(101, 300),
        part(100, 300, claims=500),
        part(100, 300, CONTENT[100:200], claims=200, fault="reset"),
        Answer(200, CONTENT[:50], claims=len(CONTENT)),
        Answer(200, CONTENT[:50], claims=len(CONTENT), fault="reset"),
    ],
    ids=lambda a: (
        f"{a.status}-{a.headers.get('Content-Range', '')}-{len(a.body)}-{a.claims}-{a.fault}"
    ),
)
def test_transient_faults_are_repeated(store, fault):
    broken = store(fault, fault)
    assert broken.fetch()[:2] == ([CONTENT[100:300]], len(CONTENT))
    assert len(broken.server.asked) == 3


def test_a_store_without_ranges(store):
    assert store(Answer(200, CONTENT)).fetch()[:2] == ([CONTENT[100:300]], len(CONTENT))


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Range": ""}, {"Content-Range": "bytes */100"}, {"Content-Range": "bytes 1-2/*"}],
)
def test_a_part_without_its_range(store, headers):
    with pytest.raises(ReadError, match="without a valid Content-Range"):
        store(Answer(206, CONTENT[100:300], headers), forever=True).fetch(retry_s=0.5)


@pytest.mark.parametrize(
    "refusal",
    [
        s3_error(403, "AccessDenied"),
        s3_error(403, "InvalidAccessKeyId"),
        s3_error(403, "SignatureDoesNotMatch"),
        s3_error(400, "ExpiredToken"),
        Answer(401),
        Answer(403),
    ],
)
def test_a_stale_url_is_replaced_once(store, refusal):
    expired = store(refusal)
    assert expired.fetch().data == CONTENT[100:300]
    assert expired.refreshed == [False, True]
    urls = [asked.path for asked in expired.server.asked]
    assert urls == ["/b/o?X-Amz-Signature=CANARY1", "/b/o?X-Amz-Signature=CANARY2"]


def test_a_store_that_refuses_always(store):
    refusing = store(s3_error(403, "AccessDenied"), forever=True)
    with pytest.raises(AccessError, match=r"403 AccessDenied") as caught:
        refusing.fetch()
    assert refusing.refreshed == [False, True]
    assert len(refusing.server.asked) == 2
    assert caught.value.object_name == ":data:o.root"
    assert "CANARY" not in text_of(caught.value)


def test_a_refusal_after_an_outage_is_still_refreshed(store):
    broken = store(Answer(503), Answer(403), Answer(503))
    assert broken.fetch().data == CONTENT[100:300]
    assert broken.refreshed == [False, True]


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchBucket"])
def test_an_object_that_is_gone(store, code):
    gone = store(s3_error(404, code), forever=True)
    with pytest.raises(ObjectGone, match=f"404 {code}") as caught:
        gone.fetch()
    assert "CANARY" not in text_of(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).object_name == ":data:o.root"


def test_an_object_that_is_not_there_yet(store):
    """A store may show an object a moment after the server has reported it."""
    assert store(s3_error(404, "NoSuchKey")).fetch().data == CONTENT[100:300]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(store, scripted, status):
    other = scripted(GOOD)
    with pytest.raises(ReadError):
        store(Answer(status, b"", {"Location": f"{other.url}/b/o"}), forever=True).fetch()
    assert other.asked == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Answer(503), ReadError),
        (part(100, 300, CONTENT[100:200]), Truncated),
        (part(100, 300, CONTENT[100:200], claims=200), ReadError),
        (Answer(200, CONTENT[:50], claims=len(CONTENT), fault="reset"), ReadError),
    ],
)
def test_repeating_ends(store, fault, kind):
    start = time.monotonic()
    broken = store(fault, forever=True)
    with pytest.raises(kind, match=r":data:o\.root") as caught:
        broken.fetch(retry_s=0.8)
    assert time.monotonic() - start < 2
    assert len(broken.server.asked) > 1
    assert "CANARY" not in text_of(caught.value)
    assert isinstance(caught.value, OSError)


def test_a_store_that_never_answers(store):
    with pytest.raises(ReadError, match="it sent 0 bytes in 0") as caught:
        store(Answer(fault="hang"), forever=True).fetch(retry_s=0.5, limits=Limits(total_s=0.2))
    assert "CANARY" not in text_of(caught.value)


def test_a_store_that_does_not_run(closed_port):
    def get_url(refresh):
        return SignedUrl(f"http://127.0.0.1:{closed_port}/o?Signature=CANARY", {}, 0)

    with pytest.raises(ReadError, match=r":o\.root") as caught:
        fetch(":o.root", get_url, 0, 10, policy=ReadPolicy(retry_s=0.5))
    assert "CANARY" not in text_of(caught.value)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1/o?Signature=CANARY", "http://a b/o?x=CANARY"]
)
def test_an_invalid_address(url):
    with pytest.raises(ReadError) as caught:
        fetch(":o.root", lambda refresh: SignedUrl(url, {}, 0), policy=ReadPolicy(retry_s=0.3))
    assert "CANARY" not in text_of(caught.value)


def test_errors_of_get_url_pass_unchanged():
    def get_url(refresh):
        raise AccessError("no URL", object_name="o")

    with pytest.raises(AccessError, match="no URL"):
        fetch("o", get_url, 0, 10)


WANTED = [(100, 101), (150, 200), (290, 300)]
PIECES = b"".join(CONTENT[start:stop] for start, stop in WANTED)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Answer(200, CONTENT)],
        [Answer(503), Answer(200, CONTENT, {"ETag": '"one"'})],
        [part(100, 300, CONTENT[100:160], claims=200, tag='"one"')],
        [part(100, 300, CONTENT[100:160], claims=200)],
        [part(100, 300, CONTENT[100:295], claims=200, tag='"two"')],
    ],
    ids=["good", "whole", "later whole", "resumed", "begun again", "replaced"],
)
def test_only_wanted_ranges_are_kept(store, faults):
    part = store(*faults).fetch(wanted=WANTED)
    assert part.pieces == [CONTENT[start:stop] for start, stop in WANTED]
    assert (part.data, part.size) == (PIECES, len(CONTENT))


def test_a_transfer_is_resumed(store):
    broken = store(part(100, 300, CONTENT[100:160], claims=200, tag='"one"'))
    assert broken.fetch().data == CONTENT[100:300]
    assert [asked.headers["Range"] for asked in broken.server.asked] == [
        "bytes=100-299",
        "bytes=160-299",
    ]


def test_a_transfer_of_an_unknown_version_is_begun_again(store):
    broken = store(part(100, 300, CONTENT[100:160], claims=200))
    assert broken.fetch().data == CONTENT[100:300]
    assert [asked.headers["Range"] for asked in broken.server.asked] == ["bytes=100-299"] * 2


def test_a_store_that_requests_a_pause(store):
    start = time.monotonic()
    assert store(Answer(503, b"", {"Retry-After": "1"})).fetch().data == CONTENT[100:300]
    assert time.monotonic() - start >= 1


def test_connections_become_free_again(store):
    """A failed request keeps none of the few connections."""
    for fault in (Answer(416), Answer(403, b"x" * 5000), part(0, 200), Answer(500, b"x" * 5000)):
        for _ in range(2 * ReadPolicy().connections):
            broken = store(fault)
            with contextlib.suppress(ReadError):
                broken.fetch(retry_s=2.0)
    assert store().fetch().data == CONTENT[100:300]
