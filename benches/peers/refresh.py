"""Refreshes TikTok Shop integrations one after the other: a script that a user would write instead of the function.

The speed bench runs it, beside the stand-ins for AWS and TikTok Shop. Needs boto3, which brings urllib3.
"""

import os
import sys
import time
import uuid

import boto3
import urllib3

TABLE_NAME = os.environ["TABLE_NAME"]
REFRESH_URL = os.environ["TIKTOK_AUTH_URL"] + "/api/v2/token/refresh"
APP = {"app_key": os.environ["APP_KEY"], "app_secret": os.environ["APP_SECRET"], "grant_type": "refresh_token"}

dynamodb = boto3.client("dynamodb")
http = urllib3.PoolManager()


def refresh(key):
    row = lease(key)
    if row is None:
        return
    answer = http.request("GET", REFRESH_URL, fields={**APP, "refresh_token": row["refresh_token"]["S"]}).json()
    if answer["code"] != 0:
        raise RuntimeError(answer["message"])
    save(key, row, answer["data"])


def lease(key):
    """The row, or None if another attempt holds it or it needs no refresh."""
    now = int(time.time())
    try:
        response = dynamodb.update_item(
            TableName=TABLE_NAME,
            Key=key,
            UpdateExpression="SET lock_owner = :me, lock_expires_at = :until",
            ConditionExpression="#status = :active AND attribute_exists(refresh_token)"
            " AND (attribute_not_exists(lock_expires_at) OR lock_expires_at <= :now)"
            " AND (attribute_not_exists(access_token_expires_at) OR access_token_expires_at <= :due)",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":me": {"S": str(uuid.uuid4())},
                ":until": {"N": str(now + 300)},
                ":active": {"S": "active"},
                ":now": {"N": str(now)},
                ":due": {"N": str(now + 24 * 3600)},
            },
            ReturnValues="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return None
    return response["Attributes"]


def save(key, row, grant):
    dynamodb.update_item(
        TableName=TABLE_NAME,
        Key=key,
        UpdateExpression="SET access_token = :access, access_token_expires_at = :access_expires,"
        " refresh_token = :refresh, refresh_token_expires_at = :refresh_expires, last_refreshed_at = :now,"
        " open_id = :open_id, seller_name = :name, seller_base_region = :region, granted_scopes = :scopes"
        " REMOVE lock_owner, lock_expires_at, error_code, error_message, error_at, consecutive_failures",
        ConditionExpression="refresh_token = :sent AND #status = :active",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={
            ":access": {"S": grant["access_token"]},
            ":access_expires": {"N": str(grant["access_token_expire_in"])},
            ":refresh": {"S": grant["refresh_token"]},
            ":refresh_expires": {"N": str(grant["refresh_token_expire_in"])},
            ":now": {"N": str(int(time.time()))},
            ":open_id": {"S": grant["open_id"]},
            ":name": {"S": grant["seller_name"]},
            ":region": {"S": grant["seller_base_region"]},
            ":scopes": {"L": [{"S": scope} for scope in grant["granted_scopes"]]},
            ":sent": row["refresh_token"],
            ":active": {"S": "active"},
        },
    )


print("ready", flush=True)
for n in range(int(sys.stdin.readline())):
    refresh({"team_id": {"S": f"team-{n // 10}"}, "integration_id": {"S": str(n)}})
print("done", flush=True)
sys.stdin.read()  # The bench reads this process's clock and memory before it ends it.
