// A client for the access tokens of TikTok Shop integrations. See docs/APPLICATIONS.md.
// Requires Node.js 20, @aws-sdk/client-dynamodb and @aws-sdk/client-lambda.
import { createHash } from "node:crypto";
import { DynamoDBClient, GetItemCommand } from "@aws-sdk/client-dynamodb";
import { InvokeCommand, LambdaClient } from "@aws-sdk/client-lambda";

const VALID_FOR = 300; // A stored token must be valid for more than this many seconds.
const BELIEVABLE = 30 * 24 * 3600; // An expiry more seconds ahead is wrong: the token counts as expired.
const CACHE_MS = 60_000;

/** Throw this in the function that you pass to `call` if TikTok answers with code 105002. */
export class TokenRejected extends Error {}

/** There is no valid token. Try again after `retryAfterSeconds`. If this is null, a person must act first. */
export class TokenUnavailable extends Error {
  constructor({ outcome, reason, message, retry_after_seconds }) {
    super(`${outcome} (${reason}): ${message}`);
    Object.assign(this, { name: "TokenUnavailable", outcome, reason, retryAfterSeconds: retry_after_seconds });
  }
}

/** Reads tokens from the table, and invokes `ensure` if one must be refreshed. */
export class TikTokTokens {
  #tableName;
  #ensureAliasArn;
  #cache = new Map();
  #dynamodb = new DynamoDBClient();
  // An `ensure` takes up to a minute. By default, the SDK would invoke it up to three times.
  #lambda = new LambdaClient({ maxAttempts: 2, requestHandler: { requestTimeout: 70_000, throwOnRequestTimeout: true } });

  constructor(tableName, ensureAliasArn) {
    this.#tableName = tableName;
    this.#ensureAliasArn = ensureAliasArn;
  }

  /** Returns an access token for immediate use. Never store, log or print it. */
  async token(team, integration) {
    return (await this.#usable([`${team}`, `${integration}`])).token;
  }

  /** Returns the shops that the seller authorized: objects with `id`, `name`, `region` and `cipher`. */
  async shops(team, integration) {
    return (await this.#usable([`${team}`, `${integration}`])).shops;
  }

  /** Returns `fn(token, shops)`. If `fn` throws TokenRejected, gets a new token and calls `fn` once more. */
  async call(team, integration, fn) {
    const key = [`${team}`, `${integration}`];
    const { token, shops } = await this.#usable(key);
    try {
      return await fn(token, shops);
    } catch (error) {
      if (!(error instanceof TokenRejected)) throw error;
    }
    const renewed = await this.#ensure(key, createHash("sha256").update(token).digest("hex"));
    return await fn(renewed.token, renewed.shops);
  }

  async #usable(key) {
    const cached = this.#cache.get(JSON.stringify(key));
    if (performance.now() < cached?.until) return cached;
    const row = await this.#read(key, false);
    const expiresIn = Number(row.access_token_expires_at?.N ?? 0) - Date.now() / 1000;
    const isUsable = expiresIn > VALID_FOR && expiresIn <= BELIEVABLE && isActive(row);
    return isUsable ? this.#keep(key, row) : this.#ensure(key);
  }

  async #ensure(key, rejected) {
    this.#cache.delete(JSON.stringify(key));
    const event = { action: "ensure", team_id: key[0], integration_id: key[1], rejected_token_sha256: rejected };
    const invoke = new InvokeCommand({ FunctionName: this.#ensureAliasArn, Payload: JSON.stringify(event) });
    const { Payload, FunctionError } = await this.#lambda.send(invoke);
    const answer = JSON.parse(Payload.transformToString());
    const failed = (reason, message, retry_after_seconds) =>
      new TokenUnavailable({ outcome: "failed", reason, message, retry_after_seconds });
    if (FunctionError) throw failed("function_error", answer.errorMessage, 30);
    if (!answer.valid) throw new TokenUnavailable(answer);
    const row = await this.#read(key, true);
    if (!isActive(row)) throw failed("changed", "the row changed after ensure had answered", 1);
    return this.#keep(key, row);
  }

  async #read([team, integration], isConsistent) {
    const read = new GetItemCommand({
      TableName: this.#tableName,
      Key: { team_id: { S: team }, integration_id: { S: integration } },
      ProjectionExpression: "access_token, access_token_expires_at, authorized_shops, #status",
      ExpressionAttributeNames: { "#status": "status" },
      ConsistentRead: isConsistent,
    });
    return (await this.#dynamodb.send(read)).Item ?? {};
  }

  #keep(key, row) {
    const shop = (map) => Object.fromEntries(Object.entries(map).map(([name, value]) => [name, value.S]));
    const shops = (row.authorized_shops?.L ?? []).flatMap(({ M }) => (M ? [shop(M)] : []));
    const usable = { token: row.access_token.S, shops, until: performance.now() + CACHE_MS };
    this.#cache.set(JSON.stringify(key), usable);
    return usable;
  }
}

const isActive = (row) => row.status?.S === "active" && row.access_token?.S !== undefined;
