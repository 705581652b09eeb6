"""Asks for each URL with one library, and prints what a program that uses it can see: one line of JSON for each URL.

    python clients.py urllib|requests|httpx|aiohttp URL...

A URL whose path begins with /post is asked with a POST of `abc`. Proxy and root certificates come from the environment.
"""
import asyncio
import json
import sys

SECONDS = 8


def text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


# They belong to one hop.
HOPS = ("connection", "keep-alive")


def seen(version, status, reason, fields, body):
    return {
        "version": str(version),
        "status": status,
        "reason": text(reason),
        "fields": [[text(name), text(value)] for name, value in fields if text(name).lower() not in HOPS],
        "body": text(body),
    }


def failure(error):
    """The classes of an error and of its causes; their texts hold addresses."""
    names = []
    while error is not None and len(names) < 5:
        names.append(type(error).__name__)
        error = error.__cause__ or error.__context__ or getattr(error, "reason", None)
        if not isinstance(error, BaseException):
            break
    return {"error": names}


def with_urllib(url, body):
    import urllib.error
    import urllib.request

    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=SECONDS)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return seen(answer.version if hasattr(answer, "version") else "", answer.status, answer.reason, answer.headers.items(), answer.read())


def with_requests(url, body):
    import requests

    with requests.Session() as session:
        answer = session.request("POST" if body else "GET", url, data=body, timeout=SECONDS)
        return seen(answer.raw.version, answer.status_code, answer.reason, answer.raw.headers.items(), answer.content)


def with_httpx(url, body):
    import httpx

    with httpx.Client(timeout=SECONDS) as client:
        answer = client.request("POST" if body else "GET", url, content=body)
        return seen(answer.http_version, answer.status_code, answer.extensions.get("reason_phrase", b""), answer.headers.raw, answer.content)


def with_aiohttp(url, body):
    import aiohttp

    async def ask():
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
            async with session.request("POST" if body else "GET", url, data=body) as answer:
                content = await answer.read()
                return seen(answer.version, answer.status, answer.reason, answer.raw_headers, content)

    return asyncio.run(ask())


ask = {"urllib": with_urllib, "requests": with_requests, "httpx": with_httpx, "aiohttp": with_aiohttp}[sys.argv[1]]
for url in sys.argv[2:]:
    body = b"abc" if "/post" in url else None
    try:
        result = ask(url, body)
    except Exception as error:  # noqa: BLE001 any error is a result
        result = failure(error)
    print(json.dumps(result))
