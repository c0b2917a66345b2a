//! A run's metrics as one line in CloudWatch's Embedded Metric Format. CloudWatch silently drops a malformed line, so a test
//! checks the exact JSON.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use crate::domain::{
    gauges::Gauges,
    latency::{Latency, millis},
    outcome::Counts,
    selection::Trigger,
};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The metrics of one run.
#[derive(Debug)]
pub struct RunMetrics<'a> {
    /// `METRICS_NAMESPACE`.
    pub namespace: &'a str,
    /// When the run ended.
    pub at: DateTime<Utc>,
    /// The run's id: a searchable property, not a dimension.
    pub run_id: &'a str,
    /// What triggered the run.
    pub trigger: Trigger,
    /// The number of integrations by outcome.
    pub counts: Counts,
    /// How long the run took.
    pub took: Duration,
    /// Whether the run succeeded and deferred no integration; single refreshes may have failed.
    pub completed: bool,
    /// How many apps have rejected rows without proof of their credentials, or refused credentials.
    pub apps_under_suspicion: u64,
    /// The sampled latencies of the calls to TikTok.
    pub latency: &'a Latency,
    /// The gauges of the whole table; only after a scheduled run.
    pub gauges: Option<Gauges>,
}

impl RunMetrics<'_> {
    /// The line, without a line break.
    pub fn line(&self) -> String {
        let counts = &self.counts;
        let mut metrics = vec![
            ("Examined", "Count", json!(counts.examined)),
            ("Due", "Count", json!(counts.due)),
            ("Refreshed", "Count", json!(counts.refreshed)),
            ("CannotRefresh", "Count", json!(counts.cannot_refresh)),
            ("NewlyCannotRefresh", "Count", json!(counts.newly_marked)),
            ("AppsUnderSuspicion", "Count", json!(self.apps_under_suspicion)),
            ("Failed", "Count", json!(counts.failed)),
            ("OutcomeUnknown", "Count", json!(counts.outcome_unknown)),
            ("Deferred", "Count", json!(counts.deferred)),
            ("Queued", "Count", json!(counts.queued)),
            ("RunDuration", "Milliseconds", json!(millis(self.took))),
            ("RunCompleted", "Count", json!(u8::from(self.completed))),
        ];
        if !self.latency.samples().is_empty() {
            metrics.push(("ProviderLatency", "Milliseconds", json!(self.latency.samples())));
        }
        if let Some(gauges) = self.gauges {
            if let Some(seconds) = gauges.soonest_access_token_expiry {
                metrics.push(("SoonestAccessTokenExpirySeconds", "Seconds", json!(seconds)));
            }
            metrics.push(("ExpiredAccessTokens", "Count", json!(gauges.expired_access_tokens)));
            metrics.push((
                "RefreshTokensExpiringIn7Days",
                "Count",
                json!(gauges.refresh_tokens_expiring_in_7_days),
            ));
        }
        let definitions: Vec<Value> =
            metrics.iter().map(|(name, unit, _)| json!({ "Name": name, "Unit": unit })).collect();
        let mut directives =
            vec![json!({ "Namespace": self.namespace, "Dimensions": [[]], "Metrics": definitions })];
        if self.trigger == Trigger::Schedule {
            // A separate dimension, so that a manual run cannot hide a missing scheduled run from the alarm.
            directives.push(json!({
                "Namespace": self.namespace, "Dimensions": [["trigger"]],
                "Metrics": [{ "Name": "RunCompleted", "Unit": "Count" }],
            }));
        }
        let mut line = Map::new();
        line.insert(
            "_aws".into(),
            json!({ "Timestamp": self.at.timestamp_millis(), "CloudWatchMetrics": directives }),
        );
        line.insert("run_id".into(), json!(self.run_id));
        line.insert("trigger".into(), json!(self.trigger.as_str()));
        line.extend(metrics.into_iter().map(|(name, _, value)| (name.to_owned(), value)));
        Value::Object(line).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_in_the_embedded_metric_format() {
        let mut latency = Latency::default();
        latency.record(Duration::from_millis(48));
        latency.record(Duration::from_millis(52));
        let metrics = RunMetrics {
            namespace: "TikTokTokenRefresh",
            at: DateTime::from_timestamp(1_795_399_200, 0).unwrap(),
            run_id: "r",
            trigger: Trigger::Schedule,
            counts: Counts { examined: 3, due: 2, refreshed: 2, skipped_not_due: 1, ..Counts::default() },
            took: Duration::from_millis(812),
            completed: true,
            apps_under_suspicion: 1,
            latency: &latency,
            gauges: Some(Gauges {
                soonest_access_token_expiry: Some(-60),
                expired_access_tokens: 1,
                refresh_tokens_expiring_in_7_days: 0,
            }),
        };
        let line: Value = serde_json::from_str(&metrics.line()).unwrap();
        let unit = |name: &str, unit: &str| json!({"Name": name, "Unit": unit});
        assert_eq!(
            line,
            json!({
                "_aws": {"Timestamp": 1_795_399_200_000_i64, "CloudWatchMetrics": [{
                    "Namespace": "TikTokTokenRefresh", "Dimensions": [[]], "Metrics": [
                        unit("Examined", "Count"), unit("Due", "Count"), unit("Refreshed", "Count"),
                        unit("CannotRefresh", "Count"), unit("NewlyCannotRefresh", "Count"),
                        unit("AppsUnderSuspicion", "Count"), unit("Failed", "Count"), unit("OutcomeUnknown", "Count"),
                        unit("Deferred", "Count"), unit("Queued", "Count"), unit("RunDuration", "Milliseconds"),
                        unit("RunCompleted", "Count"), unit("ProviderLatency", "Milliseconds"),
                        unit("SoonestAccessTokenExpirySeconds", "Seconds"), unit("ExpiredAccessTokens", "Count"),
                        unit("RefreshTokensExpiringIn7Days", "Count"),
                    ],
                }, {
                    "Namespace": "TikTokTokenRefresh", "Dimensions": [["trigger"]],
                    "Metrics": [unit("RunCompleted", "Count")],
                }]},
                "run_id": "r", "trigger": "schedule", "Examined": 3, "Due": 2, "Refreshed": 2, "CannotRefresh": 0,
                "NewlyCannotRefresh": 0, "AppsUnderSuspicion": 1, "Failed": 0,
                "OutcomeUnknown": 0, "Deferred": 0, "Queued": 0, "RunDuration": 812, "RunCompleted": 1,
                "ProviderLatency": [48, 52], "SoonestAccessTokenExpirySeconds": -60, "ExpiredAccessTokens": 1,
                "RefreshTokensExpiringIn7Days": 0,
            })
        );
    }

    #[test]
    fn a_manual_run_without_a_call_has_no_latency_gauges_or_trigger_dimension() {
        let metrics = RunMetrics {
            namespace: "n",
            at: DateTime::UNIX_EPOCH,
            run_id: "r",
            trigger: Trigger::Manual,
            counts: Counts::default(),
            took: Duration::ZERO,
            completed: false,
            apps_under_suspicion: 0,
            latency: &Latency::default(),
            gauges: None,
        };
        let line = metrics.line();
        assert!(!line.contains("ProviderLatency") && !line.contains("Expir") && !line.contains('\n'));
        assert!(!line.contains(r#"[["trigger"]]"#), "only a scheduled run has the dimension");
    }
}
