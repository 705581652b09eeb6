"""An agent in Python that calls grpc_site.py once for each of its methods, and prints what it got as JSON. It knows
nothing about proxies or certificates; gRPC takes both from the environment.

    python3 grpc_calls.py HOST:PORT
"""

import json
import sys

import grpc

with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    message = b"hello" * 1000
    once, call = channel.unary_unary("/test.Echo/Once").with_call(message, timeout=60)
    stream = channel.unary_stream("/test.Echo/Twice")(message, timeout=60)
    twice = list(stream)
    got = {
        "once": once == message,
        "twice": twice == [message, message],
        "via": [dict(side.trailing_metadata())["seen-via"] for side in (call, stream)],
    }
print(json.dumps(got))
