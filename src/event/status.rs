//! A request for a status report, from an operator or from a CloudWatch custom widget.

use super::{
    Request,
    read::{BadEvent, Id, MAX_TEAM_ID},
};
use crate::domain::{display::Display, selection::Selection};
use chrono::FixedOffset;
use serde::{Deserialize, de};

/// What a status report covers and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRequest {
    /// Which integrations.
    pub selection: Selection,
    /// How the report is written.
    pub format: Format,
}

/// How a status report is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For programs.
    #[default]
    Json,
    /// The integrations as a table.
    Table,
    /// A few lines.
    Summary,
    /// A fragment for a CloudWatch custom widget.
    Html(Display),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusEvent {
    #[serde(rename = "action")]
    _action: String,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    format: Option<FormatName>,
    #[serde(rename = "widgetContext")]
    widget_context: Option<WidgetContext>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormatName {
    Json,
    Table,
    Summary,
    Html,
}

/// What CloudWatch tells a custom widget of its surroundings. AWS writes it, so that keys which it adds do no harm.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_about.html>
#[derive(Default, Deserialize)]
struct WidgetContext {
    theme: Option<String>,
    timezone: Option<TimeZone>,
}

#[derive(Deserialize)]
struct TimeZone {
    // Beside it stands an offset in minutes, whose sign AWS does not document.
    #[serde(rename = "offsetISO")]
    offset: Option<String>,
}

pub(super) fn request(event: StatusEvent) -> Result<Request, BadEvent> {
    let format = match (event.format.unwrap_or(FormatName::Json), event.widget_context) {
        (FormatName::Html, context) => Format::Html(place(context.unwrap_or_default())),
        (_, Some(_)) => {
            return Err(BadEvent("widgetContext: expected it beside \"format\":\"html\" alone".into()));
        }
        (FormatName::Json, None) => Format::Json,
        (FormatName::Table, None) => Format::Table,
        (FormatName::Summary, None) => Format::Summary,
    };
    Ok(Request::Status(StatusRequest { selection: event.team_id.selection(), format }))
}

/// Where a widget is shown; what CloudWatch does not say, or says oddly, is UTC and light.
fn place(context: WidgetContext) -> Display {
    let offset = context.timezone.and_then(|zone| zone.offset?.parse::<FixedOffset>().ok());
    let offset = offset.filter(|offset| offset.local_minus_utc() != 0);
    Display {
        dark: context.theme.as_deref() == Some("dark"),
        offset_minutes: offset.map_or(0, |offset| offset.local_minus_utc() / 60),
        zone: offset.map_or_else(|| "UTC".into(), |offset| format!("UTC{offset}")),
    }
}

/// CloudWatch's request for a widget's help text, with whatever else the widget is set to send.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribeEvent {
    #[serde(rename = "describe")]
    _describe: bool,
    #[serde(rename = "action")]
    _action: Option<String>,
    #[serde(default, rename = "team_id")]
    _team_id: Id<MAX_TEAM_ID>,
    #[serde(rename = "format")]
    _format: Option<FormatName>,
    #[serde(rename = "widgetContext")]
    _widget_context: Option<de::IgnoredAny>,
}
