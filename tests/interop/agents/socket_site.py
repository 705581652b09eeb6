"""A site that speaks WebSocket: it answers every message with the message and the `Via` of the handshake.

    python3 socket_site.py [CERT KEY]

Prints its port when it listens, and ends when its standard input does.
"""

import ssl
import sys
import threading

from websockets.sync.server import serve


def echo(socket):
    via = socket.request.headers.get("Via", "nobody")
    for message in socket:
        socket.send(f"{message} via {via}")


tls = None
if len(sys.argv) > 1:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*sys.argv[1:])

with serve(echo, "127.0.0.1", 0, ssl=tls) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.socket.getsockname()[1], flush=True)
    sys.stdin.read()
    server.shutdown()
