"""A client for the access tokens of TikTok Shop integrations. See docs/APPLICATIONS.md. Requires boto3."""

import hashlib
import json
import time

import boto3
from botocore.config import Config

VALID_FOR = 300  # A stored token must be valid for more than this many seconds.
BELIEVABLE = 30 * 24 * 3600  # An expiry more seconds ahead is wrong: the token counts as expired.
CACHE_SECONDS = 60


class TokenRejected(Exception):
    """Raise this in the function that you pass to `call` if TikTok answers with code 105002."""


class TokenUnavailable(Exception):
    """There is no valid token. Try again after `retry_after_seconds`. If this is None, a person must act first."""

    def __init__(self, outcome, reason, message, retry_after_seconds):
        super().__init__(f"{outcome} ({reason}): {message}")
        self.outcome, self.reason, self.retry_after_seconds = outcome, reason, retry_after_seconds


class TikTokTokens:
    """Reads tokens from the table, and invokes `ensure` if one must be refreshed. Threads can share one object."""

    def __init__(self, table_name, ensure_alias_arn):
        self._table_name, self._ensure_alias_arn = table_name, ensure_alias_arn
        self._dynamodb = boto3.client("dynamodb")
        # An `ensure` takes up to a minute. By default, boto3 would invoke it up to five times.
        self._lambda = boto3.client("lambda", config=Config(read_timeout=70, retries={"total_max_attempts": 2}))
        self._cache = {}

    def token(self, team, integration):
        """Returns an access token for immediate use. Never store, log or print it."""
        return self._usable((str(team), str(integration)))[0]

    def shops(self, team, integration):
        """Returns the shops that the seller authorized: dicts with `id`, `name`, `region` and `cipher`."""
        return self._usable((str(team), str(integration)))[1]

    def call(self, team, integration, fn):
        """Returns `fn(token, shops)`. If `fn` raises TokenRejected, gets a new token and calls `fn` once more."""
        key = str(team), str(integration)
        token, shops = self._usable(key)
        try:
            return fn(token, shops)
        except TokenRejected:
            rejected = hashlib.sha256(token.encode()).hexdigest()
        return fn(*self._ensure(key, rejected))

    def _usable(self, key):
        until, cached = self._cache.get(key, (0, None))
        if time.monotonic() < until:
            return cached
        row = self._read(key, consistent=False)
        expires_in = float(row.get("access_token_expires_at", {}).get("N", 0)) - time.time()
        return self._keep(key, row) if VALID_FOR < expires_in <= BELIEVABLE and is_active(row) else self._ensure(key)

    def _ensure(self, key, rejected=None):
        self._cache.pop(key, None)
        event = {"action": "ensure", "team_id": key[0], "integration_id": key[1], "rejected_token_sha256": rejected}
        response = self._lambda.invoke(FunctionName=self._ensure_alias_arn, Payload=json.dumps(event))
        answer = json.load(response["Payload"])
        if "FunctionError" in response:
            raise TokenUnavailable("failed", "function_error", answer.get("errorMessage"), 30)
        if not answer["valid"]:
            raise TokenUnavailable(*(answer[name] for name in ("outcome", "reason", "message", "retry_after_seconds")))
        row = self._read(key, consistent=True)
        if not is_active(row):
            raise TokenUnavailable("failed", "changed", "the row changed after ensure had answered", 1)
        return self._keep(key, row)

    def _read(self, key, consistent):
        response = self._dynamodb.get_item(
            TableName=self._table_name,
            Key={"team_id": {"S": key[0]}, "integration_id": {"S": key[1]}},
            ProjectionExpression="access_token, access_token_expires_at, authorized_shops, #status",
            ExpressionAttributeNames={"#status": "status"},
            ConsistentRead=consistent,
        )
        return response.get("Item", {})

    def _keep(self, key, row):
        maps = [shop["M"] for shop in row.get("authorized_shops", {}).get("L", []) if "M" in shop]
        usable = row["access_token"]["S"], [{k: v["S"] for k, v in shop.items() if "S" in v} for shop in maps]
        self._cache[key] = (time.monotonic() + CACHE_SECONDS, usable)
        return usable


def is_active(row):
    return row.get("status", {}).get("S") == "active" and "S" in row.get("access_token", {})
