"""The client against the local stack, by boto3. `.ci/clients` starts the stack and sets the variables."""

import hashlib
import hmac
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Barrier, Thread

import boto3
import pytest
from botocore.exceptions import BotoCoreError
from tiktok_tokens import TikTokTokens, TokenRejected, TokenUnavailable

TABLE, FUNCTION, TIKTOK, APP_KEY, APP_SECRET = (
    os.environ[name] for name in ("TABLE_NAME", "FUNCTION_NAME", "TIKTOK_URL", "APP_KEY", "APP_SECRET")
)
HOUR = 3600
SHOPS = "/authorization/202309/shops"


def tokens(function=f"{FUNCTION}:ensure"):
    return TikTokTokens(TABLE, function)


def stored(integration, expires_in, status="active"):
    """Makes a row of the table as if it had been refreshed long ago. Returns its key."""
    key = str(integration // 100), str(integration)
    values = {
        ":at": {"N": str(int(time.time()) + expires_in)},
        ":status": {"S": status},
        ":long_ago": {"N": str(int(time.time()) - HOUR)},
    }
    boto3.client("dynamodb").update_item(
        TableName=TABLE,
        Key={"team_id": {"S": key[0]}, "integration_id": {"S": key[1]}},
        UpdateExpression="SET access_token_expires_at = :at, last_refreshed_at = :long_ago, #status = :status "
        "REMOVE error_code, error_reason, error_message, error_at, consecutive_failures, rejected_by",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues=values,
    )
    return key


def get(path, headers=None, method="GET"):
    request = urllib.request.Request(TIKTOK + path, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return json.loads(response.read() or "{}")
    except urllib.error.HTTPError as error:
        return json.load(error)


def refresh_calls():
    return get("/local/refresh-calls")["refresh_calls"]


def reject_token_of(integration):
    get(f"/local/reject-access-tokens?open_id=seller-{integration}", method="POST")


def authorized_shops(token, _shops):
    """A signed call to TikTok Shop, as an application writes it."""
    query = {"app_key": APP_KEY, "timestamp": str(int(time.time()))}
    signed = APP_SECRET + SHOPS + "".join(k + v for k, v in sorted(query.items())) + APP_SECRET
    query["sign"] = hmac.new(APP_SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
    answer = get(f"{SHOPS}?{urllib.parse.urlencode(query)}", {"x-tts-access-token": token})
    if answer["code"] == 105002:
        raise TokenRejected
    assert answer["code"] == 0, answer
    return answer["data"]["shops"]


def test_a_fresh_token_is_read_and_nothing_is_invoked():
    key = stored(101, expires_in=5 * 24 * HOUR)
    assert tokens(function="no-such-function").call(*key, authorized_shops)[0]["name"] == "Fresh Flowers"
    assert tokens().call(int(key[0]), int(key[1]), authorized_shops), "ids may be numbers"


def test_the_readmes_lines_work(monkeypatch):
    stored(101, expires_in=5 * 24 * HOUR)
    reject_token_of(101)
    [lines] = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    monkeypatch.setenv("ENSURE_ALIAS_ARN", f"{FUNCTION}:ensure")
    names = {"os": os, "TikTokTokens": TikTokTokens, "search_orders": authorized_shops}
    exec(lines, names)
    assert names["token"] != names["tokens"].token(1, 101), "it was rejected, so another one has replaced it"
    assert [shop["cipher"] for shop in names["orders"]] == ["ROW_local"]


def test_the_shops_are_read_from_the_row():
    verify = json.dumps({"action": "verify", "team_id": 1, "integration_id": 101})
    boto3.client("lambda").invoke(FunctionName=FUNCTION, Payload=verify)
    shop = {"id": "7495", "name": "Fresh Flowers", "region": "VN", "cipher": "ROW_local"}
    assert tokens().shops(1, 101) == [shop]
    assert tokens().call(1, 101, lambda _token, shops: shops) == [shop]


def test_what_is_not_a_map_among_the_shops_is_skipped():
    stored(105, expires_in=24 * HOUR)
    shop = {"M": {"id": {"S": "7495"}, "cipher": {"NULL": True}}}
    boto3.client("dynamodb").update_item(
        TableName=TABLE,
        Key={"team_id": {"S": "1"}, "integration_id": {"S": "105"}},
        UpdateExpression="SET authorized_shops = :shops",
        ExpressionAttributeValues={":shops": {"L": [{"S": "7495"}, shop, {"NULL": True}]}},
    )
    assert tokens().shops(1, 105) == [{"id": "7495"}]


def test_an_invocation_without_an_answer_is_repeated_once(monkeypatch):
    key, seen = stored(105, expires_in=-HOUR), []

    class Broken(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.path)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(BotoCoreError):
            tokens().token(*key)
        server.shutdown()
    assert len(seen) == 2


@pytest.mark.parametrize("expires_in", [-HOUR, 200, 4_000_000_000])
def test_a_token_that_expires_or_whose_expiry_is_not_believable_is_refreshed_before_the_call(expires_in):
    key, before = stored(102, expires_in), refresh_calls()
    ours = tokens()
    assert ours.call(*key, authorized_shops)[0]["name"] == "Noodles by Night"
    assert refresh_calls() == before + 1
    assert ours.token(*key) == tokens().token(*key)
    assert refresh_calls() == before + 1


def test_a_rejected_token_is_refreshed_and_the_call_repeated_once():
    key, before = stored(103, expires_in=24 * HOUR), refresh_calls()
    reject_token_of(103)
    ours = tokens()
    assert ours.call(*key, authorized_shops)[0]["name"] == "Ten Minute Tea"
    assert refresh_calls() == before + 1
    assert ours.call(*key, authorized_shops)
    assert refresh_calls() == before + 1

    reject_token_of(103)
    with pytest.raises(TokenUnavailable) as error:
        ours.call(*key, authorized_shops)
    assert (error.value.outcome, error.value.reason) == ("failed", "just_refreshed")
    assert 0 < error.value.retry_after_seconds <= 300


def test_a_call_is_made_at_most_twice():
    key, seen = stored(103, expires_in=24 * HOUR), []

    def rejecting(token, _shops):
        seen.append(token)
        raise TokenRejected

    with pytest.raises(TokenRejected):
        tokens().call(*key, rejecting)
    assert len(set(seen)) == len(seen) == 2


def test_another_error_of_the_call_is_the_callers():
    with pytest.raises(ZeroDivisionError):
        tokens().call(*stored(101, expires_in=24 * HOUR), lambda _token, _shops: 1 / 0)


@pytest.mark.parametrize("is_rejected", [False, True])
def test_16_workers_lead_to_one_redemption(is_rejected):
    key, before = stored(104, expires_in=24 * HOUR if is_rejected else -HOUR), refresh_calls()
    if is_rejected:
        reject_token_of(104)
    barrier = Barrier(16)

    def work(worker):
        barrier.wait()
        return worker.call(*key, authorized_shops)[0]["name"], worker.token(*key)

    with ThreadPoolExecutor(16) as pool:
        results = set(pool.map(work, [tokens() for _ in range(16)]))
    assert len(results) == 1
    assert refresh_calls() == before + 1


@pytest.mark.parametrize(
    ("integration", "status", "outcome", "reason"),
    [
        (301, "active", "cannot_refresh", "reauthorize"),
        (303, "error", "cannot_refresh", "marked"),
        (304, "paused", "failed", "status"),
    ],
)
def test_a_person_must_act(integration, status, outcome, reason):
    # A mark counts even if the token lives: it may be another seller's.
    key = stored(integration, expires_in=-HOUR if status == "active" else 24 * HOUR, status=status)
    for _ in range(2):
        before = refresh_calls()
        with pytest.raises(TokenUnavailable) as error:
            tokens().token(*key)
        assert (error.value.outcome, error.value.reason) == (outcome, reason)
        assert error.value.retry_after_seconds is None
    assert refresh_calls() == before, "a noted rejection is not asked for again"


def test_a_row_that_is_not_there_or_not_readable():
    for key, reason in [((9, 999), "not_found"), ((3, 305), "malformed_row")]:
        with pytest.raises(TokenUnavailable) as error:
            tokens().token(*key)
        assert (error.value.outcome, error.value.reason) == ("failed", reason), error.value


def test_nothing_shows_a_token_and_a_rejected_one_is_forgotten():
    key = stored(105, expires_in=24 * HOUR)
    ours = tokens()
    token = ours.token(*key)
    assert token not in f"{ours!r} {ours}"
    reject_token_of(105)
    stored(105, expires_in=-HOUR, status="error")
    with pytest.raises(TokenUnavailable) as error:
        ours.call(*key, authorized_shops)
    assert token not in f"{error.value!r} {error.value}"
    with pytest.raises(TokenUnavailable):
        ours.token(*key)


def test_at_last_the_function_fails_as_its_table_is_gone():
    key = stored(105, expires_in=24 * HOUR)
    ours = tokens()
    ours.token(*key)
    boto3.client("dynamodb").delete_table(TableName=TABLE)
    reject_token_of(105)
    with pytest.raises(TokenUnavailable, match="table") as error:
        ours.call(*key, authorized_shops)
    assert (error.value.outcome, error.value.reason) == ("failed", "function_error")
    assert error.value.retry_after_seconds == 30
