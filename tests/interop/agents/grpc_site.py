"""A gRPC service with TLS, of the reference implementation: `/test.Echo/Once` answers with the request, and
`/test.Echo/Twice` streams it twice. The trailing metadata `seen-via` is the `Via` of the request.

    python3 grpc_site.py CERT KEY

Prints its port when it listens, and ends when its standard input does.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc


def tell(context):
    via = dict(context.invocation_metadata()).get("via", "nobody")
    context.set_trailing_metadata([("seen-via", via)])


def once(request, context):
    tell(context)
    return request


def twice(request, context):
    tell(context)
    yield request
    yield request


certificate, key = (Path(path).read_bytes() for path in sys.argv[1:])
server = grpc.server(ThreadPoolExecutor(4))
methods = {
    "Once": grpc.unary_unary_rpc_method_handler(once),
    "Twice": grpc.unary_stream_rpc_method_handler(twice),
}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", methods)])
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
