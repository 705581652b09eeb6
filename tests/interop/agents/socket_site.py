"""A site that speaks WebSocket: it answers every message with the message and the `Via` of the handshake.

    python3 socket_site.py [CERT KEY]

Prints its port when it listens, and ends when its standard input does.
"""

import asyncio
import ssl
import sys

from aiohttp import web


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    via = request.headers.get("Via", "nobody")
    async for message in socket:
        await socket.send_str(f"{message.data} via {via}")
    return socket


async def serve(tls):
    site = web.Application()
    site.router.add_get("/", echo)
    runner = web.AppRunner(site)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await listener.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


tls = None
if len(sys.argv) > 1:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*sys.argv[1:])
asyncio.run(serve(tls))
