//! Parses the environment variables into [`Settings`]. One error reports every problem.

use crate::domain::{
    blanks::without_blanks,
    loopback::is_loopback,
    quoted::{MAX_QUOTED, quoted},
    secret::{AppCredentials, CredentialsFrom},
};
use chrono::TimeDelta;
use std::{fmt, num::NonZeroU32, time::Duration};
use url::Url;

/// The function's configuration. Each field names its environment variable.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `TABLE_NAME`: the DynamoDB table of integrations.
    pub table_name: String,
    /// `APP_CREDENTIALS_SECRET_ID`, or `TIKTOK_SHOP_APP_KEY` and `TIKTOK_SHOP_APP_SECRET`: the app credentials.
    pub credentials: CredentialsFrom,
    /// `REFRESH_AHEAD`: how long before its expiry an access token is due for a refresh.
    pub refresh_ahead: TimeDelta,
    /// `MAX_CONCURRENCY`: the maximum number of refreshes in flight, and so of token pairs that a crash can lose.
    pub max_concurrency: usize,
    /// `MAX_REQUESTS_PER_SECOND`: the maximum rate of requests to TikTok, for each app.
    pub max_requests_per_second: NonZeroU32,
    /// `TIKTOK_TIMEOUT`: the time limit of one TikTok call, including the response body.
    pub tiktok_timeout: Duration,
    /// `TIKTOK_AUTH_URL`: the base URL of TikTok Shop's authorization API.
    pub tiktok_auth_url: Url,
    /// `TIKTOK_API_URL`: the base URL of TikTok Shop's Open API.
    pub tiktok_api_url: Url,
    /// `WORK_QUEUE_URL`: the SQS queue for the work of large or unfinished runs, and for token pairs that could not be
    /// saved.
    pub work_queue_url: Option<Url>,
    /// `FAN_OUT_ABOVE`: the number of due integrations above which a run fans out over the queue.
    pub fan_out_above: usize,
    /// `EVENT_BUS_NAME`: the EventBridge bus on which state changes are published.
    pub event_bus_name: Option<String>,
    /// `METRICS_NAMESPACE`: the namespace of the CloudWatch metrics. `none` turns the metrics off.
    pub metrics_namespace: Option<String>,
    /// `PUBLIC_ENDPOINT`: whether this process is the public function, which answers sellers' browsers and nothing else.
    pub public_endpoint: bool,
    /// Where links lead instead of to TikTok's consent page. No variable sets it: the local stack has a page of its own.
    pub consent_page: Option<Url>,
    /// `LOG_LEVEL`: the log level of this crate. Dependencies log at a fixed level.
    pub log_level: tracing::Level,
}

/// Every problem in the settings.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<String>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{count} problem{} in the settings:", if count == 1 { "" } else { "s" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for SettingsError {}

/// A Lambda environment has 1,024 file descriptors, and a refresh holds two connections: to TikTok and to DynamoDB.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const CONCURRENCY_LIMIT: u32 = 400;
const MAX_REFRESH_AHEAD: Duration = Duration::from_hours(30 * 24);

impl Settings {
    /// Reads the settings from the process's environment variables.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem.
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the environment")]
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::parse(|name| std::env::var(name).ok())
    }

    /// Reads the settings from `lookup`, which returns a variable's value. An empty value counts as unset.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem.
    pub fn parse(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut reader = Reader { lookup, problems: Vec::new() };
        let settings = Self {
            table_name: reader.required("TABLE_NAME"),
            credentials: reader.credentials(),
            refresh_ahead: reader.refresh_ahead(),
            max_concurrency: reader.number("MAX_CONCURRENCY", 32, CONCURRENCY_LIMIT) as usize,
            max_requests_per_second: NonZeroU32::new(reader.number("MAX_REQUESTS_PER_SECOND", 50, 10_000))
                .unwrap_or(NonZeroU32::MIN),
            tiktok_timeout: reader.duration(
                "TIKTOK_TIMEOUT",
                Duration::from_secs(10),
                Duration::from_millis(100)..=Duration::from_mins(1),
            ),
            tiktok_auth_url: reader.url("TIKTOK_AUTH_URL", "https://auth.tiktok-shops.com"),
            tiktok_api_url: reader.url("TIKTOK_API_URL", "https://open-api.tiktokglobalshop.com"),
            work_queue_url: reader.optional_url("WORK_QUEUE_URL"),
            fan_out_above: reader.number("FAN_OUT_ABOVE", 5000, 1_000_000) as usize,
            event_bus_name: reader.text("EVENT_BUS_NAME"),
            metrics_namespace: Some(
                reader.text("METRICS_NAMESPACE").unwrap_or_else(|| "TikTokTokenRefresh".into()),
            )
            // For those who watch the log instead.
            .filter(|namespace| namespace != "none"),
            public_endpoint: reader.flag("PUBLIC_ENDPOINT"),
            consent_page: None,
            log_level: reader.level("LOG_LEVEL"),
        };
        if reader.problems.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError { problems: reader.problems })
        }
    }
}

/// Reads variables and collects their problems. An invalid variable yields a placeholder that is never used.
struct Reader<F> {
    lookup: F,
    problems: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A variable's value as it is, blanks included: whoever uses it removes them, and says so in the log.
    fn untrimmed_text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !without_blanks(value).is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.problems.push(format!("{name} is not set"));
            String::new()
        })
    }

    fn invalid(&mut self, name: &str, value: &str, expected: impl fmt::Display) {
        let is_plain = |c: char| c.is_ascii_digit() || c == '-' || c == '.';
        self.problems.push(if value.len() > MAX_QUOTED {
            format!("{name} has {}: expected {expected}", quoted(value))
        } else if value.chars().all(is_plain) {
            format!("{name}={value}: expected {expected}")
        } else {
            format!("{name}={}: expected {expected}", quoted(value))
        });
    }

    /// As [`invalid`](Self::invalid), but quotes a longer value too, unless it has a part in which secrets stand: a user name, a
    /// password, a query or a fragment.
    fn invalid_url(&mut self, name: &str, value: &str, expected: &str) {
        if value.contains(['@', '?', '#']) {
            self.problems.push(format!("{name}: expected {expected}"));
        } else if value.contains("://") {
            let start: String = value.chars().take(100).collect();
            self.problems.push(format!("{name}={start:?}: expected {expected}"));
        } else {
            self.invalid(name, value, expected);
        }
    }

    fn credentials(&mut self) -> CredentialsFrom {
        let key = self.untrimmed_text("TIKTOK_SHOP_APP_KEY");
        let secret = self.untrimmed_text("TIKTOK_SHOP_APP_SECRET");
        match (self.text("APP_CREDENTIALS_SECRET_ID"), key, secret) {
            (Some(secret_id), _, _) if could_be_a_secret_id(&secret_id) => {
                return CredentialsFrom::Secret(secret_id);
            }
            (Some(other), _, _) => {
                self.invalid("APP_CREDENTIALS_SECRET_ID", &other, "the name or the ARN of a secret");
            }
            (None, Some(app_key), Some(secret)) => {
                return CredentialsFrom::Environment(AppCredentials {
                    app_key,
                    app_secret: secret.into(),
                    service: None,
                });
            }
            (None, Some(_), None) => self.problems.push(
                "TIKTOK_SHOP_APP_KEY is set, but TIKTOK_SHOP_APP_SECRET is not".into(),
            ),
            (None, None, Some(_)) => self.problems.push(
                "TIKTOK_SHOP_APP_SECRET is set, but TIKTOK_SHOP_APP_KEY is not".into(),
            ),
            (None, None, None) => self.problems.push(
                "APP_CREDENTIALS_SECRET_ID is not set (local runs can set TIKTOK_SHOP_APP_KEY and TIKTOK_SHOP_APP_SECRET instead)".into(),
            ),
        }
        CredentialsFrom::Secret(String::new())
    }

    fn number(&mut self, name: &str, default: u32, max: u32) -> u32 {
        let Some(value) = self.text(name) else { return default };
        value.parse().ok().filter(|number| (1..=max).contains(number)).unwrap_or_else(|| {
            self.invalid(name, &value, format_args!("a whole number from 1 to {max}"));
            default
        })
    }

    fn duration(
        &mut self,
        name: &str,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = self.text(name) else { return default };
        match humantime::parse_duration(&value) {
            Err(_) => self.invalid(name, &value, "a duration such as 90s, 5m, 48h or 7d"),
            Ok(duration) if !range.contains(&duration) => {
                let [from, to] = [range.start(), range.end()].map(|bound| humantime::format_duration(*bound));
                self.invalid(name, &value, format_args!("a duration from {from} to {to}"));
            }
            Ok(duration) => return duration,
        }
        default
    }

    fn refresh_ahead(&mut self) -> TimeDelta {
        let default = Duration::from_hours(48);
        let ahead = self.duration("REFRESH_AHEAD", default, Duration::from_secs(1)..=MAX_REFRESH_AHEAD);
        TimeDelta::from_std(ahead).unwrap_or_default()
    }

    fn url(&mut self, name: &str, default: &str) -> Url {
        let value = self.text(name).unwrap_or_else(|| default.to_owned());
        self.parsed_url(name, &value)
    }

    fn optional_url(&mut self, name: &str) -> Option<Url> {
        self.text(name).map(|value| self.parsed_url(name, &value))
    }

    fn parsed_url(&mut self, name: &str, value: &str) -> Url {
        match Url::parse(value) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                self.invalid_url(name, value, "a URL without a user name or password");
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                self.invalid_url(name, value, "a URL without a query or fragment");
            }
            Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {
                return url;
            }
            _ => self.invalid_url(name, value, "an https URL (http is allowed only for localhost)"),
        }
        #[expect(clippy::unwrap_used, reason = "a constant URL")]
        Url::parse("https://invalid.invalid").unwrap()
    }

    fn flag(&mut self, name: &str) -> bool {
        let Some(value) = self.text(name) else { return false };
        value.parse().unwrap_or_else(|_| {
            self.invalid(name, &value, "true or false");
            false
        })
    }

    fn level(&mut self, name: &str) -> tracing::Level {
        let value = self.text(name).unwrap_or_else(|| "info".into());
        match value.to_lowercase().as_str() {
            "error" => tracing::Level::ERROR,
            "warn" => tracing::Level::WARN,
            "info" => tracing::Level::INFO,
            "debug" => tracing::Level::DEBUG,
            "trace" => tracing::Level::TRACE,
            _ => {
                self.invalid(name, &value, "error, warn, info, debug or trace");
                tracing::Level::INFO
            }
        }
    }
}

/// Whether a text has only characters that stand in a secret's name or ARN. The secret's value, set by mistake, has others.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html>
fn could_be_a_secret_id(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "/_+=.@-!:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let value =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::parse(value).map_err(|error| error.to_string())
    }

    const REQUIRED: [(&str, &str); 2] = [("TABLE_NAME", "t"), ("APP_CREDENTIALS_SECRET_ID", "s")];

    fn with(name: &str, value: &str) -> Result<Settings, String> {
        parse(&[&REQUIRED[..], &[(name, value)]].concat())
    }

    #[test]
    fn two_variables_suffice() {
        let settings = parse(&REQUIRED).unwrap();
        assert_eq!(settings.refresh_ahead, TimeDelta::hours(48));
        assert_eq!(settings.max_concurrency, 32);
        assert_eq!(settings.max_requests_per_second.get(), 50);
        assert_eq!(settings.tiktok_timeout, Duration::from_secs(10));
        assert_eq!(settings.tiktok_auth_url.as_str(), "https://auth.tiktok-shops.com/");
        assert_eq!(settings.tiktok_api_url.as_str(), "https://open-api.tiktokglobalshop.com/");
        assert_eq!(settings.metrics_namespace.as_deref(), Some("TikTokTokenRefresh"));
        assert_eq!(
            (settings.work_queue_url, settings.fan_out_above, settings.event_bus_name),
            (None, 5000, None)
        );
        assert_eq!(settings.log_level, tracing::Level::INFO);
    }

    #[test]
    fn no_more_refreshes_are_in_flight_than_there_are_file_descriptors_for() {
        assert_eq!(with("MAX_CONCURRENCY", "400").unwrap().max_concurrency, 400);
        for beyond in ["401", "1000", "4294967296", "-1", "32.5", "0x20"] {
            assert!(with("MAX_CONCURRENCY", beyond).is_err(), "{beyond}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = parse(&[
            ("TABLE_NAME", " "),
            ("TIKTOK_SHOP_APP_KEY", "k"),
            ("MAX_CONCURRENCY", "0"),
            ("REFRESH_AHEAD", "2 nights"),
            ("TIKTOK_TIMEOUT", "2h"),
            ("TIKTOK_AUTH_URL", "http://auth.example"),
            ("LOG_LEVEL", "loud"),
        ])
        .unwrap_err();
        assert_eq!(
            error,
            "7 problems in the settings:\
             \n  TABLE_NAME is not set\
             \n  TIKTOK_SHOP_APP_KEY is set, but TIKTOK_SHOP_APP_SECRET is not\
             \n  REFRESH_AHEAD=\"2 nights\": expected a duration such as 90s, 5m, 48h or 7d\
             \n  MAX_CONCURRENCY=0: expected a whole number from 1 to 400\
             \n  TIKTOK_TIMEOUT=\"2h\": expected a duration from 100ms to 1m\
             \n  TIKTOK_AUTH_URL=\"http://auth.example\": expected an https URL (http is allowed only for localhost)\
             \n  LOG_LEVEL=\"loud\": expected error, warn, info, debug or trace"
        );
    }

    #[test]
    fn durations_have_the_documented_format() {
        for (text, ahead) in [
            ("90s", TimeDelta::seconds(90)),
            ("5m", TimeDelta::minutes(5)),
            ("48h", TimeDelta::hours(48)),
            ("7d", TimeDelta::days(7)),
        ] {
            assert_eq!(with("REFRESH_AHEAD", text).unwrap().refresh_ahead, ahead);
        }
        for text in ["48", "-5m", "0s", "31d", "h"] {
            assert!(with("REFRESH_AHEAD", text).unwrap_err().contains("REFRESH_AHEAD="), "{text}");
        }
    }

    #[test]
    fn metrics_can_be_turned_off() {
        assert_eq!(with("METRICS_NAMESPACE", "none").unwrap().metrics_namespace, None);
        assert_eq!(with("METRICS_NAMESPACE", "Shops").unwrap().metrics_namespace.as_deref(), Some("Shops"));
    }

    #[test]
    fn the_public_endpoint_is_off_unless_turned_on() {
        assert!(!parse(&REQUIRED).unwrap().public_endpoint);
        assert!(!with("PUBLIC_ENDPOINT", "false").unwrap().public_endpoint);
        assert!(with("PUBLIC_ENDPOINT", "true").unwrap().public_endpoint);
        for text in ["yes", "1", "True"] {
            let error = with("PUBLIC_ENDPOINT", text).unwrap_err();
            assert!(
                error.contains("PUBLIC_ENDPOINT=") && error.contains("expected true or false"),
                "{error}"
            );
        }
    }

    #[test]
    fn plain_http_is_allowed_only_for_localhost() {
        for url in ["http://127.0.0.1:8123", "http://localhost:1", "http://[::1]:9", "https://auth.example"] {
            assert!(with("TIKTOK_AUTH_URL", url).is_ok(), "{url}");
        }
        for url in ["http://10.0.0.1", "http://localhost.example", "ftp://127.0.0.1", "auth"] {
            assert!(with("TIKTOK_API_URL", url).unwrap_err().contains("TIKTOK_API_URL="), "{url}");
        }
    }

    #[test]
    fn what_may_hold_a_secret_is_refused_and_never_shown() {
        for (url, expected) in [
            ("https://user:s3cr3t@auth.example", "a URL without a user name or password"),
            ("https://:s3cr3t@auth.example", "a URL without a user name or password"),
            ("https://s3cr3t@auth.example", "a URL without a user name or password"),
            ("https://auth.example?key=s3cr3t", "a URL without a query or fragment"),
            ("https://auth.example/#s3cr3t", "a URL without a query or fragment"),
            ("user:s3cr3t@auth.example", "an https URL (http is allowed only for localhost)"),
            ("https://user:s3cr3t@auth.example:999999", "an https URL (http is allowed only for localhost)"),
            ("ftp://auth.example?key=s3cr3t", "a URL without a query or fragment"),
        ] {
            for name in ["TIKTOK_AUTH_URL", "TIKTOK_API_URL", "WORK_QUEUE_URL"] {
                let error = with(name, url).unwrap_err();
                assert_eq!(error, format!("1 problem in the settings:\n  {name}: expected {expected}"));
            }
        }
        let secret = "s3cr3t-0123456789abcdef";
        for name in ["REFRESH_AHEAD", "MAX_CONCURRENCY", "LOG_LEVEL", "PUBLIC_ENDPOINT", "WORK_QUEUE_URL"] {
            let error = with(name, secret).unwrap_err();
            assert!(error.contains(&format!("{name} has 23 characters: expected ")), "{error}");
            assert!(!error.contains(secret), "{error}");
        }
    }

    #[test]
    fn the_secrets_value_is_not_its_id() {
        let with = |id| parse(&[("TABLE_NAME", "t"), ("APP_CREDENTIALS_SECRET_ID", id)]);
        for id in ["shop/apps_1", "arn:aws:secretsmanager:us-east-1:123456789012:secret:shop/apps-a1B2c3"] {
            assert!(with(id).is_ok(), "{id}");
        }
        let value = r#"{"app_key":"29a39d","app_secret":"s3cr3t"}"#;
        assert_eq!(
            with(value).unwrap_err(),
            "1 problem in the settings:\n  APP_CREDENTIALS_SECRET_ID has 42 characters: expected the name or the ARN of a secret"
        );
    }

    #[test]
    fn debug_output_hides_the_app_secret() {
        let settings =
            parse(&[("TABLE_NAME", "t"), ("TIKTOK_SHOP_APP_KEY", "k"), ("TIKTOK_SHOP_APP_SECRET", "s3cr3t")])
                .unwrap();
        assert!(!format!("{settings:?}").contains("s3cr3t"));
    }
}
