// Refreshes TikTok Shop integrations, 32 at a time: a script that a user would write instead of the function.
//
// The speed bench runs it, beside the stand-ins for AWS and TikTok Shop. Needs Node.js 20 and @aws-sdk/client-dynamodb.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline/promises";
import { ConditionalCheckFailedException, DynamoDBClient, UpdateItemCommand } from "@aws-sdk/client-dynamodb";

const CONCURRENCY = 32;
const { TABLE_NAME, TIKTOK_AUTH_URL, APP_KEY, APP_SECRET } = process.env;

const dynamodb = new DynamoDBClient();

async function refresh(key) {
  const row = await lease(key);
  if (!row) return;
  const url = new URL("/api/v2/token/refresh", TIKTOK_AUTH_URL);
  url.search = new URLSearchParams({
    app_key: APP_KEY,
    app_secret: APP_SECRET,
    refresh_token: row.refresh_token.S,
    grant_type: "refresh_token",
  });
  const { code, message, data } = await (await fetch(url)).json();
  if (code !== 0) throw new Error(message);
  await save(key, row, data);
}

/** The row, or undefined if another attempt holds it or it needs no refresh. */
async function lease(key) {
  const now = Math.floor(Date.now() / 1000);
  const update = new UpdateItemCommand({
    TableName: TABLE_NAME,
    Key: key,
    UpdateExpression: "SET lock_owner = :me, lock_expires_at = :until",
    ConditionExpression:
      "#status = :active AND attribute_exists(refresh_token)" +
      " AND (attribute_not_exists(lock_expires_at) OR lock_expires_at <= :now)" +
      " AND (attribute_not_exists(access_token_expires_at) OR access_token_expires_at <= :due)",
    ExpressionAttributeNames: { "#status": "status" },
    ExpressionAttributeValues: {
      ":me": { S: randomUUID() },
      ":until": { N: `${now + 300}` },
      ":active": { S: "active" },
      ":now": { N: `${now}` },
      ":due": { N: `${now + 24 * 3600}` },
    },
    ReturnValues: "ALL_OLD",
  });
  try {
    return (await dynamodb.send(update)).Attributes;
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return undefined;
    throw error;
  }
}

async function save(key, row, grant) {
  const update = new UpdateItemCommand({
    TableName: TABLE_NAME,
    Key: key,
    UpdateExpression:
      "SET access_token = :access, access_token_expires_at = :access_expires," +
      " refresh_token = :refresh, refresh_token_expires_at = :refresh_expires, last_refreshed_at = :now," +
      " open_id = :open_id, seller_name = :name, seller_base_region = :region, granted_scopes = :scopes" +
      " REMOVE lock_owner, lock_expires_at, error_code, error_message, error_at, consecutive_failures",
    ConditionExpression: "refresh_token = :sent AND #status = :active",
    ExpressionAttributeNames: { "#status": "status" },
    ExpressionAttributeValues: {
      ":access": { S: grant.access_token },
      ":access_expires": { N: `${grant.access_token_expire_in}` },
      ":refresh": { S: grant.refresh_token },
      ":refresh_expires": { N: `${grant.refresh_token_expire_in}` },
      ":now": { N: `${Math.floor(Date.now() / 1000)}` },
      ":open_id": { S: grant.open_id },
      ":name": { S: grant.seller_name },
      ":region": { S: grant.seller_base_region },
      ":scopes": { L: grant.granted_scopes.map((scope) => ({ S: scope })) },
      ":sent": row.refresh_token,
      ":active": { S: "active" },
    },
  });
  await dynamodb.send(update);
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
console.log("ready");
const rows = Number((await lines.next()).value);
let next = 0;
async function work() {
  while (next < rows) {
    const n = next++;
    await refresh({ team_id: { S: `team-${Math.floor(n / 10)}` }, integration_id: { S: `${n}` } });
  }
}
await Promise.all(Array.from({ length: CONCURRENCY }, work));
console.log("done");
await lines.next(); // The bench reads this process's clock and memory before it ends it.
