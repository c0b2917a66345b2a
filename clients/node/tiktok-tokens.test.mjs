// The client against the local stack, by the AWS SDK. `.ci/clients` starts the stack and sets the variables.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { inspect } from "node:util";
import { DeleteTableCommand, DynamoDBClient, UpdateItemCommand } from "@aws-sdk/client-dynamodb";
import { InvokeCommand, LambdaClient } from "@aws-sdk/client-lambda";
import { TikTokTokens, TokenRejected, TokenUnavailable } from "./tiktok-tokens.mjs";

const { TABLE_NAME, FUNCTION_NAME, TIKTOK_URL, APP_KEY, APP_SECRET } = process.env;
const HOUR = 3600;
const SHOPS = "/authorization/202309/shops";
const now = () => Math.floor(Date.now() / 1000);
const tokens = (name = `${FUNCTION_NAME}:ensure`) => new TikTokTokens(TABLE_NAME, name);

/** Makes a row of the table as if it had been refreshed long ago. Returns its key. */
async function stored(integration, expiresIn, status = "active") {
  const key = [`${Math.floor(integration / 100)}`, `${integration}`];
  const update = new UpdateItemCommand({
    TableName: TABLE_NAME,
    Key: { team_id: { S: key[0] }, integration_id: { S: key[1] } },
    UpdateExpression:
      "SET access_token_expires_at = :at, last_refreshed_at = :long_ago, #status = :status " +
      "REMOVE error_code, error_reason, error_message, error_at, consecutive_failures, rejected_by",
    ExpressionAttributeNames: { "#status": "status" },
    ExpressionAttributeValues: {
      ":at": { N: `${now() + expiresIn}` },
      ":status": { S: status },
      ":long_ago": { N: `${now() - HOUR}` },
    },
  });
  await new DynamoDBClient().send(update);
  return key;
}

const refreshCalls = async () => (await (await fetch(`${TIKTOK_URL}/local/refresh-calls`)).json()).refresh_calls;

const rejectTokenOf = (integration) =>
  fetch(`${TIKTOK_URL}/local/reject-access-tokens?open_id=seller-${integration}`, { method: "POST" });

/** A signed call to TikTok Shop, as an application writes it. */
async function authorizedShops(token) {
  const query = { app_key: APP_KEY, timestamp: `${now()}` };
  const pairs = Object.keys(query).sort().map((name) => name + query[name]);
  const sign = createHmac("sha256", APP_SECRET).update(APP_SECRET + SHOPS + pairs.join("") + APP_SECRET).digest("hex");
  const url = `${TIKTOK_URL}${SHOPS}?${new URLSearchParams({ ...query, sign })}`;
  const answer = await (await fetch(url, { headers: { "x-tts-access-token": token } })).json();
  if (answer.code === 105002) throw new TokenRejected();
  assert.equal(answer.code, 0, answer.message);
  return answer.data.shops;
}

/** The TokenUnavailable with which a promise is rejected. */
async function unavailable(promise) {
  const error = await promise.then(() => assert.fail("there is a token"), (error) => error);
  assert.ok(error instanceof TokenUnavailable, error);
  return error;
}

test("a fresh token is read, and nothing is invoked", async () => {
  const key = await stored(101, 5 * 24 * HOUR);
  const [shop] = await tokens("no-such-function").call(...key, authorizedShops);
  assert.equal(shop.name, "Fresh Flowers");
  assert.ok(await tokens().call(1, 101, authorizedShops), "ids may be numbers");
});

test("the shops are read from the row", async () => {
  const Payload = JSON.stringify({ action: "verify", team_id: 1, integration_id: 101 });
  await new LambdaClient().send(new InvokeCommand({ FunctionName: FUNCTION_NAME, Payload }));
  const shop = { id: "7495", name: "Fresh Flowers", region: "VN", cipher: "ROW_local" };
  assert.deepEqual(await tokens().shops(1, 101), [shop]);
  assert.deepEqual(await tokens().call(1, 101, (_token, shops) => shops), [shop]);
});

test("what is not a map among the shops is skipped", async () => {
  await stored(105, 24 * HOUR);
  const shop = { M: { id: { S: "7495" } } };
  const update = new UpdateItemCommand({
    TableName: TABLE_NAME,
    Key: { team_id: { S: "1" }, integration_id: { S: "105" } },
    UpdateExpression: "SET authorized_shops = :shops",
    ExpressionAttributeValues: { ":shops": { L: [{ S: "7495" }, shop, { NULL: true }] } },
  });
  await new DynamoDBClient().send(update);
  assert.deepEqual(await tokens().shops(1, 105), [{ id: "7495" }]);
});

test("an invocation without an answer is repeated once", async (t) => {
  const [key, seen] = [await stored(105, -HOUR), []];
  const server = createServer((request) => {
    seen.push(request.url);
    request.socket.destroy();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  const url = process.env.AWS_ENDPOINT_URL_LAMBDA;
  t.after(() => (process.env.AWS_ENDPOINT_URL_LAMBDA = url));
  process.env.AWS_ENDPOINT_URL_LAMBDA = `http://127.0.0.1:${server.address().port}`;
  await assert.rejects(tokens().token(...key), (error) => !(error instanceof TokenUnavailable));
  assert.equal(seen.length, 2);
});

for (const expiresIn of [-HOUR, 200, 4_000_000_000]) {
  test(`a token that expires in ${expiresIn} s is refreshed before the call`, async () => {
    const [key, before, ours] = [await stored(102, expiresIn), await refreshCalls(), tokens()];
    assert.equal((await ours.call(...key, authorizedShops))[0].name, "Noodles by Night");
    assert.equal(await refreshCalls(), before + 1);
    assert.equal(await ours.token(...key), await tokens().token(...key));
    assert.equal(await refreshCalls(), before + 1);
  });
}

test("a rejected token is refreshed, and the call repeated once", async () => {
  const [key, before, ours] = [await stored(103, 24 * HOUR), await refreshCalls(), tokens()];
  await rejectTokenOf(103);
  assert.equal((await ours.call(...key, authorizedShops))[0].name, "Ten Minute Tea");
  assert.equal(await refreshCalls(), before + 1);
  await ours.call(...key, authorizedShops);
  assert.equal(await refreshCalls(), before + 1);

  await rejectTokenOf(103);
  const { outcome, reason, retryAfterSeconds } = await unavailable(ours.call(...key, authorizedShops));
  assert.deepEqual([outcome, reason], ["failed", "just_refreshed"]);
  assert.ok(retryAfterSeconds > 0 && retryAfterSeconds <= 300);
});

test("a call is made at most twice", async () => {
  const [key, seen] = [await stored(103, 24 * HOUR), []];
  const rejecting = (token) => {
    seen.push(token);
    throw new TokenRejected();
  };
  await assert.rejects(tokens().call(...key, rejecting), TokenRejected);
  assert.equal(seen.length, 2);
  assert.notEqual(seen[0], seen[1]);
});

test("another error of the call is the caller's", async () => {
  const key = await stored(101, 24 * HOUR);
  await assert.rejects(tokens().call(...key, () => Promise.reject(new RangeError())), RangeError);
});

for (const isRejected of [false, true]) {
  test(`16 workers lead to one redemption of ${isRejected ? "a rejected" : "an expired"} token`, async () => {
    const [key, before] = [await stored(104, isRejected ? 24 * HOUR : -HOUR), await refreshCalls()];
    if (isRejected) await rejectTokenOf(104);
    const work = async (worker) =>
      [(await worker.call(...key, authorizedShops))[0].name, await worker.token(...key)].join();
    const results = await Promise.all(Array.from({ length: 16 }, () => work(tokens())));
    assert.equal(new Set(results).size, 1);
    assert.equal(await refreshCalls(), before + 1);
  });
}

for (const [integration, status, outcome, reason] of [
  [301, "active", "cannot_refresh", "reauthorize"],
  [303, "error", "cannot_refresh", "marked"],
  [304, "paused", "failed", "status"],
]) {
  test(`a person must act: ${reason}`, async () => {
    // A mark counts even if the token lives: it may be another seller's.
    const key = await stored(integration, status === "active" ? -HOUR : 24 * HOUR, status);
    const first = await unavailable(tokens().token(...key));
    assert.deepEqual([first.outcome, first.reason, first.retryAfterSeconds], [outcome, reason, null]);
    const before = await refreshCalls();
    const second = await unavailable(tokens().token(...key));
    assert.equal(second.message, first.message);
    assert.equal(await refreshCalls(), before, "a noted rejection is not asked for again");
  });
}

test("a row that is not there, or not readable", async () => {
  for (const [key, reason] of [
    [[9, 999], "not_found"],
    [[3, 305], "malformed_row"],
  ]) {
    const error = await unavailable(tokens().token(...key));
    assert.deepEqual([error.outcome, error.reason], ["failed", reason], error.message);
  }
});

test("nothing shows a token, and a rejected one is forgotten", async () => {
  const [key, ours] = [await stored(105, 24 * HOUR), tokens()];
  const token = await ours.token(...key);
  const shows = (value) => inspect(value, { depth: null, showHidden: true }) + JSON.stringify(value);
  assert.ok(!shows(ours).includes(token));
  await rejectTokenOf(105);
  await stored(105, -HOUR, "error");
  assert.ok(!shows(await unavailable(ours.call(...key, authorizedShops))).includes(token));
  await unavailable(ours.token(...key));
});

test("at last, the function fails, as its table is gone", async () => {
  const [key, ours] = [await stored(105, 24 * HOUR), tokens()];
  await ours.token(...key);
  await new DynamoDBClient().send(new DeleteTableCommand({ TableName: TABLE_NAME }));
  await rejectTokenOf(105);
  const error = await unavailable(ours.call(...key, authorizedShops));
  assert.deepEqual([error.outcome, error.reason, error.retryAfterSeconds], ["failed", "function_error", 30]);
  assert.match(error.message, /table/);
});
