"""Asks a person by BKey's own SDK, at whatever answers under URL. Id and secret are in BKEY_CLIENT_ID and BKEY_CLIENT_SECRET.

    python3 bkey_approve.py URL DID
"""

import json
import os
import sys

import bkey.client
from bkey import BKeyClient
from bkey.exceptions import BKeyError

url, did = sys.argv[1:]
# Between two looks it waits for five seconds, whatever the server says.
bkey.client.time = type("Hasty", (), {"time": bkey.client.time.time, "sleep": staticmethod(lambda seconds: None)})
client = BKeyClient(os.environ["BKEY_CLIENT_ID"], os.environ["BKEY_CLIENT_SECRET"], base_url=url)
try:
    result = client.approve(
        message="build-bot: pay 12.50 USDC to api.example.com #0BY5GS4N",
        user_did=did,
        scope="approve:payment",
        action_details={
            "type": "payment",
            "description": "x402 12.50 USDC to api.example.com",
            "amount": 1250,
            "currency": "USD",
            "recipient": "api.example.com",
        },
        expiry_seconds=300,
    )
    print(json.dumps({"status": result.status, "access_token": result.access_token}))
except BKeyError as error:
    print(json.dumps({"error": type(error).__name__, "why": str(error)}))
