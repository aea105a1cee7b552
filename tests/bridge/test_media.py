"""Fetching pictures from addresses that strangers chose."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from bridge import media
from bridge.media import Picture, PictureFetcher, is_public, sniff
from bridge.network import Rejected, Unreachable

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "localhost",
        "",
    ],
)
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"<svg xmlns=", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_a_pictures_first_bytes_say_what_it_is(data: bytes, content_type: str | None) -> None:
    assert sniff(data) == content_type


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/x.png",
        "data:image/png;base64,AAAA",
        "http://127.0.0.1/x.png",
        "http://[::1]/x.png",
        "http://[::ffff:169.254.169.254]/x.png",
        "http://2130706433/x.png",
        "http://localhost/x.png",
        "http://example.org:22/x.png",
        "https:///x.png",
        "x.png",
        "",
        "http://[",
    ],
)
async def test_only_the_open_web_is_fetched_from(url: str) -> None:
    async with PictureFetcher(allow_private=False) as pictures:
        with pytest.raises(Rejected):
            await pictures.fetch(url)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """A web server on loopback with good and bad things to fetch."""

    async def picture(_: web.Request) -> web.Response:
        # The sender's word for it does not count.
        return web.Response(body=PNG, content_type="text/html")

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=b"<html>", content_type="image/png")

    async def bomb(_: web.Request) -> web.Response:
        return web.Response(body=PNG + bytes(2000))

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def status(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))

    app = web.Application()
    app.router.add_get("/picture", picture)
    app.router.add_get("/page", page)
    app.router.add_get("/bomb", bomb)
    app.router.add_get("/redirect", redirect)
    app.router.add_get("/status/{status}", status)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def pictures() -> AsyncIterator[PictureFetcher]:
    """A fetcher that may reach loopback."""
    async with PictureFetcher(allow_private=True) as fetcher:
        yield fetcher


async def test_a_picture_is_fetched_also_through_redirects(server: str, pictures: PictureFetcher) -> None:
    assert await pictures.fetch(f"{server}/picture") == Picture(PNG, "image/png")
    assert await pictures.fetch(f"{server}/redirect?to=/picture") == Picture(PNG, "image/png")


async def test_endless_redirects_are_refused(server: str, pictures: PictureFetcher) -> None:
    with pytest.raises(Rejected, match="more than 3 redirects"):
        await pictures.fetch(f"{server}/redirect?to=/redirect?to=/redirect?to=/redirect?to=/redirect?to=/x")


async def test_a_redirect_out_of_the_web_is_refused(server: str, pictures: PictureFetcher) -> None:
    with pytest.raises(Rejected, match="only http and https are fetched"):
        await pictures.fetch(f"{server}/redirect?to=file:///etc/passwd")


async def test_what_is_no_picture_is_refused(server: str, pictures: PictureFetcher) -> None:
    with pytest.raises(Rejected, match="not a PNG, JPEG, GIF or WebP picture"):
        await pictures.fetch(f"{server}/page")


async def test_what_is_too_long_is_refused(
    server: str, pictures: PictureFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "MAX_PICTURE_BYTES", 1000)

    with pytest.raises(Rejected, match="longer than 1000 bytes"):
        await pictures.fetch(f"{server}/bomb")


@pytest.mark.parametrize(
    ("status", "error"), [(404, Rejected), (403, Rejected), (429, Unreachable), (503, Unreachable)]
)
async def test_a_failing_server_is_told_from_a_missing_picture(
    server: str, pictures: PictureFetcher, status: int, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"status {status}"):
        await pictures.fetch(f"{server}/status/{status}")


async def test_a_server_that_is_not_there_is_unreachable(pictures: PictureFetcher) -> None:
    with pytest.raises(Unreachable):
        await pictures.fetch("http://127.0.0.1:1/picture")
