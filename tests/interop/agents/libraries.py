"""An agent in Python: it fetches one URL with one library and prints the body. It knows nothing about payments or
proxies; the library takes both from the environment.

    python3 libraries.py aiohttp|httplib2|httpx|requests|urllib URL
    python3 libraries.py aiohttp-socket|websockets URL      prints what comes back for "hello" through a WebSocket
"""

import asyncio
import sys


def urllib(url):
    from urllib.request import urlopen

    return urlopen(url, timeout=60).read().decode()


def requests(url):
    import requests

    response = requests.get(url, timeout=60)
    response.raise_for_status()
    return response.text


def httpx(url):
    import httpx

    return httpx.get(url, timeout=60).raise_for_status().text


def httplib2(url):
    import httplib2

    response, body = httplib2.Http(timeout=60).request(url)
    if response.status != 200:
        raise SystemExit(f"{response.status} {body.decode()}")
    return body.decode()


def aiohttp(url):
    import aiohttp

    async def fetched():
        async with aiohttp.ClientSession(trust_env=True, raise_for_status=True) as session:
            async with session.get(url) as response:
                return await response.text()

    return asyncio.run(fetched())


def aiohttp_socket(url):
    import aiohttp

    async def said():
        async with aiohttp.ClientSession(trust_env=True) as session:
            async with session.ws_connect(url) as socket:
                await socket.send_str("hello")
                return await socket.receive_str()

    return asyncio.run(said())


def websockets(url):
    from websockets.asyncio.client import connect

    async def said():
        async with connect(url) as socket:
            await socket.send("hello")
            return await socket.recv()

    return asyncio.run(said())


print(globals()[sys.argv[1].replace("-", "_")](sys.argv[2]), end="")
