"""An agent in Python: it fetches one URL and knows nothing about payments or proxies. All of that comes from its
environment: HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE.

    python3 requests_get.py URL [--post-file FILE]
"""

import argparse
import hashlib
import json
import sys

import requests

arguments = argparse.ArgumentParser()
arguments.add_argument("url")
arguments.add_argument("--post-file")
arguments = arguments.parse_args()

try:
    if arguments.post_file is None:
        response = requests.get(arguments.url, timeout=120)
    else:
        with open(arguments.post_file, "rb") as body:
            response = requests.post(
                arguments.url,
                data=body.read(),
                headers={"content-type": "application/octet-stream"},
                timeout=120,
            )
except requests.RequestException as error:
    print(json.dumps({"error": type(error).__name__, "cause": str(error)}))
    sys.exit(1)

print(
    json.dumps(
        {
            "status": response.status_code,
            "headers": {name.lower(): value for name, value in response.headers.items()},
            "sha256": hashlib.sha256(response.content).hexdigest(),
            "length": len(response.content),
            "body": response.content[:4096].decode("utf-8", "replace"),
        }
    )
)
