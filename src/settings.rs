//! The environment, read once, into [`Settings`]. Every problem is reported at once.

use crate::domain::{
    loopback::is_loopback,
    secret::{AppCredentials, CredentialsFrom},
};
use chrono::TimeDelta;
use std::{fmt, num::NonZeroU32, time::Duration};
use url::Url;

/// What the function needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `TABLE_NAME`: the integrations.
    pub table_name: String,
    /// Where the app credentials come from.
    pub credentials: CredentialsFrom,
    /// `REFRESH_AHEAD`: how long before its expiry a token is refreshed.
    pub refresh_ahead: TimeDelta,
    /// `MAX_CONCURRENCY`: refreshes in flight, and so the tokens that one kill can strand.
    pub max_concurrency: usize,
    /// `MAX_REQUESTS_PER_SECOND`: toward TikTok, per app.
    pub max_requests_per_second: NonZeroU32,
    /// `TIKTOK_TIMEOUT`: one provider call, from the first byte to the last.
    pub tiktok_timeout: Duration,
    /// `TIKTOK_AUTH_URL`: the authorization host.
    pub tiktok_auth_url: Url,
    /// `TIKTOK_API_URL`: the open API.
    pub tiktok_api_url: Url,
    /// `WORK_QUEUE_URL`: where large or unfinished runs go on, and where a pair goes that the table would not take.
    pub work_queue_url: Option<Url>,
    /// `FAN_OUT_ABOVE`: due integrations above which a run is spread over the queue.
    pub fan_out_above: usize,
    /// `EVENT_BUS_NAME`: where changes of state are published.
    pub event_bus_name: Option<String>,
    /// `METRICS_NAMESPACE`: of the CloudWatch metrics; without one, no metrics are written.
    pub metrics_namespace: Option<String>,
    /// `LOG_LEVEL`: of this crate; the levels of the crates below it are fixed.
    pub log_level: tracing::Level,
}

/// Everything that is wrong with the settings.
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

const MAX_REFRESH_AHEAD: Duration = Duration::from_hours(30 * 24);

impl Settings {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// One [`SettingsError`] with every problem.
    #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::parse(|name| std::env::var(name).ok())
    }

    /// Reads settings from `lookup`, which answers a variable's value. An empty value is as good as none.
    ///
    /// # Errors
    /// One [`SettingsError`] with every problem.
    pub fn parse(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut reader = Reader { lookup, problems: Vec::new() };
        let settings = Self {
            table_name: reader.required("TABLE_NAME"),
            credentials: reader.credentials(),
            refresh_ahead: reader.refresh_ahead(),
            max_concurrency: reader.number("MAX_CONCURRENCY", 32, 1000) as usize,
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
            // CloudWatch bills each metric, which for few integrations is more than all the rest.
            .filter(|namespace| namespace != "none"),
            log_level: reader.level("LOG_LEVEL"),
        };
        if reader.problems.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError { problems: reader.problems })
        }
    }
}

/// Reads variables and gathers what is wrong with them; a wrong one yields a stand-in that is never used.
struct Reader<F> {
    lookup: F,
    problems: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.problems.push(format!("{name} is not set"));
            String::new()
        })
    }

    fn wrong(&mut self, name: &str, value: &str, expected: impl fmt::Display) {
        self.problems.push(format!("{name}={}: expected {expected}", shown(value)));
    }

    fn credentials(&mut self) -> CredentialsFrom {
        let key = self.text("TIKTOK_SHOP_APP_KEY");
        let secret = self.text("TIKTOK_SHOP_APP_SECRET");
        match (self.text("APP_CREDENTIALS_SECRET_ID"), key, secret) {
            (Some(secret_id), _, _) => return CredentialsFrom::Secret(secret_id),
            (None, Some(app_key), Some(secret)) => {
                return CredentialsFrom::Environment(AppCredentials { app_key, app_secret: secret.into() });
            }
            (None, Some(_), None) => self.problems.push(
                "TIKTOK_SHOP_APP_SECRET is not set beside TIKTOK_SHOP_APP_KEY".into(),
            ),
            (None, None, Some(_)) => self.problems.push(
                "TIKTOK_SHOP_APP_KEY is not set beside TIKTOK_SHOP_APP_SECRET".into(),
            ),
            (None, None, None) => self.problems.push(
                "APP_CREDENTIALS_SECRET_ID is not set (for local runs, TIKTOK_SHOP_APP_KEY and TIKTOK_SHOP_APP_SECRET serve instead)".into(),
            ),
        }
        CredentialsFrom::Secret(String::new())
    }

    fn number(&mut self, name: &str, default: u32, max: u32) -> u32 {
        let Some(value) = self.text(name) else { return default };
        value.parse().ok().filter(|number| (1..=max).contains(number)).unwrap_or_else(|| {
            self.wrong(name, &value, format_args!("a whole number from 1 to {max}"));
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
            Err(_) => self.wrong(name, &value, "a duration such as 90s, 5m, 48h or 7d"),
            Ok(duration) if !range.contains(&duration) => {
                let [from, to] = [range.start(), range.end()].map(|bound| humantime::format_duration(*bound));
                self.wrong(name, &value, format_args!("a duration from {from} to {to}"));
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
                // Not shown: it may be a password.
                self.problems.push(format!("{name}: expected a URL without a user and a password"));
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                self.wrong(name, value, "a URL without query and fragment");
            }
            Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {
                return url;
            }
            _ => self.wrong(name, value, "an https URL (plain http only to this machine itself)"),
        }
        #[expect(clippy::unwrap_used, reason = "a constant that is a URL")]
        Url::parse("https://invalid.invalid").unwrap()
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
                self.wrong(name, &value, "error, warn, info, debug or trace");
                tracing::Level::INFO
            }
        }
    }
}

/// A setting's value for an error: quoted unless it is a plain number, and cut.
fn shown(value: &str) -> String {
    let cut: String = value.chars().take(100).collect();
    if cut.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.') { cut } else { format!("{cut:?}") }
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
    fn two_variables_are_enough() {
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
    fn all_problems_are_reported_at_once() {
        let said = parse(&[
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
            said,
            "7 problems in the settings:\
             \n  TABLE_NAME is not set\
             \n  TIKTOK_SHOP_APP_SECRET is not set beside TIKTOK_SHOP_APP_KEY\
             \n  REFRESH_AHEAD=\"2 nights\": expected a duration such as 90s, 5m, 48h or 7d\
             \n  MAX_CONCURRENCY=0: expected a whole number from 1 to 1000\
             \n  TIKTOK_TIMEOUT=\"2h\": expected a duration from 100ms to 1m\
             \n  TIKTOK_AUTH_URL=\"http://auth.example\": expected an https URL (plain http only to this machine itself)\
             \n  LOG_LEVEL=\"loud\": expected error, warn, info, debug or trace"
        );
    }

    #[test]
    fn durations_are_read_as_the_contract_writes_them() {
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
    fn metrics_can_be_done_without() {
        assert_eq!(with("METRICS_NAMESPACE", "none").unwrap().metrics_namespace, None);
        assert_eq!(with("METRICS_NAMESPACE", "Shops").unwrap().metrics_namespace.as_deref(), Some("Shops"));
    }

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        for url in ["http://127.0.0.1:8123", "http://localhost:1", "http://[::1]:9", "https://auth.example"] {
            assert!(with("TIKTOK_AUTH_URL", url).is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1",
            "http://localhost.example",
            "ftp://127.0.0.1",
            "auth",
            "https://a.example?x=1",
        ] {
            assert!(with("TIKTOK_API_URL", url).unwrap_err().contains("TIKTOK_API_URL="), "{url}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_without_being_shown() {
        for url in ["https://user:s3cr3t@auth.example", "https://:s3cr3t@auth.example"] {
            let said = with("TIKTOK_AUTH_URL", url).unwrap_err();
            assert!(
                said.contains("TIKTOK_AUTH_URL: expected a URL without a user") && !said.contains("s3cr3t"),
                "{said}"
            );
        }
    }

    #[test]
    fn the_secret_of_a_local_run_shows_nowhere() {
        let settings =
            parse(&[("TABLE_NAME", "t"), ("TIKTOK_SHOP_APP_KEY", "k"), ("TIKTOK_SHOP_APP_SECRET", "s3cr3t")])
                .unwrap();
        assert!(!format!("{settings:?}").contains("s3cr3t"));
    }
}
