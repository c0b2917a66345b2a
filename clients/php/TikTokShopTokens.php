<?php

// A client for the access tokens of TikTok Shop integrations. See docs/APPLICATIONS.md. Requires PHP 8.2 and aws/aws-sdk-php.

namespace App\Services;

use Aws\DynamoDb\DynamoDbClient;
use Aws\Lambda\LambdaClient;
use RuntimeException;
use SensitiveParameter;

/** Throw this in the function that you pass to call() if TikTok answers with code 105002. */
final class TokenRejected extends RuntimeException {}

/** There is no valid token. Try again after $retryAfterSeconds. If this is null, a person must act first. */
final class TokenUnavailable extends RuntimeException
{
    public function __construct(
        public readonly string $outcome,
        public readonly ?string $reason,
        ?string $message,
        public readonly ?int $retryAfterSeconds,
    ) {
        parent::__construct("$outcome ($reason): $message");
    }
}

/** Reads tokens from the table, and invokes ensure if one must be refreshed. Bind this class as a singleton. */
final class TikTokShopTokens
{
    private const VALID_FOR = 300; // A stored token must be valid for more than this many seconds.
    private const BELIEVABLE = 30 * 24 * 3600; // An expiry more seconds ahead is wrong: the token counts as expired.
    private const CACHE_SECONDS = 60;

    private array $cache = [];

    public function __construct(
        private readonly DynamoDbClient $dynamoDb,
        private readonly LambdaClient $lambda,
        private readonly string $tableName,
        private readonly string $ensureAliasArn,
    ) {}

    /** Returns an access token for immediate use. Never store, log or print it. */
    public function token(string|int $team, string|int $integration): string
    {
        return $this->usable([(string) $team, (string) $integration])['token'];
    }

    /** Returns the shops that the seller authorized: arrays with 'id', 'name', 'region' and 'cipher'. */
    public function shops(string|int $team, string|int $integration): array
    {
        return $this->usable([(string) $team, (string) $integration])['shops'];
    }

    /** Returns $fn($token, $shops). If $fn throws TokenRejected, gets a new token and calls $fn once more. */
    public function call(string|int $team, string|int $integration, callable $fn): mixed
    {
        $key = [(string) $team, (string) $integration];
        ['token' => $token, 'shops' => $shops] = $this->usable($key);
        try {
            return $fn($token, $shops);
        } catch (TokenRejected) {
            ['token' => $token, 'shops' => $shops] = $this->ensure($key, hash('sha256', $token));
        }
        return $fn($token, $shops);
    }

    /** The same as token(), under the name that a Laravel service often has for it. */
    public function ensureValidAccessToken(string|int $team, string|int $integration): string
    {
        return $this->token($team, $integration);
    }

    private function usable(array $key): array
    {
        $cached = $this->cache[json_encode($key)] ?? null;
        if ($cached !== null && hrtime(true) / 1e9 < $cached['until']) {
            return $cached;
        }
        $row = $this->read($key, false);
        $expiresIn = (float) ($row['access_token_expires_at']['N'] ?? 0) - time();
        $isUsable = $expiresIn > self::VALID_FOR && $expiresIn <= self::BELIEVABLE && self::isActive($row);
        return $isUsable ? $this->keep($key, $row) : $this->ensure($key);
    }

    private function ensure(array $key, ?string $rejected = null): array
    {
        unset($this->cache[json_encode($key)]);
        [$team, $integration] = $key;
        $event = ['action' => 'ensure', 'team_id' => $team, 'integration_id' => $integration, 'rejected_token_sha256' => $rejected];
        $result = $this->lambda->invoke([
            'FunctionName' => $this->ensureAliasArn,
            'Payload' => json_encode($event, JSON_THROW_ON_ERROR),
            '@http' => ['timeout' => 70], // An ensure takes up to a minute.
            '@retries' => 1, // By default, the SDK would invoke it up to four times.
        ]);
        $answer = json_decode((string) $result['Payload'], true, flags: JSON_THROW_ON_ERROR);
        if (! empty($result['FunctionError'])) {
            throw new TokenUnavailable('failed', 'function_error', $answer['errorMessage'] ?? null, 30);
        }
        if (! $answer['valid']) {
            throw new TokenUnavailable($answer['outcome'], $answer['reason'], $answer['message'], $answer['retry_after_seconds']);
        }
        $row = $this->read($key, true);
        if (! self::isActive($row)) {
            throw new TokenUnavailable('failed', 'changed', 'the row changed after ensure had answered', 1);
        }
        return $this->keep($key, $row);
    }

    private function read(array $key, bool $isConsistent): array
    {
        return $this->dynamoDb->getItem([
            'TableName' => $this->tableName,
            'Key' => ['team_id' => ['S' => $key[0]], 'integration_id' => ['S' => $key[1]]],
            'ProjectionExpression' => 'access_token, access_token_expires_at, authorized_shops, #status',
            'ExpressionAttributeNames' => ['#status' => 'status'],
            'ConsistentRead' => $isConsistent,
        ])['Item'] ?? [];
    }

    private function keep(array $key, #[SensitiveParameter] array $row): array
    {
        $shop = fn (array $map): array => array_map(fn (array $value) => $value['S'] ?? null, $map);
        $shops = array_map($shop, array_column($row['authorized_shops']['L'] ?? [], 'M')); // Skips values that are not maps.
        $usable = ['token' => $row['access_token']['S'], 'shops' => $shops, 'until' => hrtime(true) / 1e9 + self::CACHE_SECONDS];
        return $this->cache[json_encode($key)] = $usable;
    }

    private static function isActive(#[SensitiveParameter] array $row): bool
    {
        return ($row['status']['S'] ?? null) === 'active' && isset($row['access_token']['S']);
    }

    /** Hides the tokens in memory from dd() and var_dump(). */
    public function __debugInfo(): array
    {
        return [];
    }
}
