//! The events that request a status report, or the help text of the CloudWatch custom widget that shows one.

use super::{
    Request,
    read::{BadEvent, Id, MAX_TEAM_ID, Object},
};
use crate::domain::{display::Display, quoted::quoted, selection::Selection};
use chrono::FixedOffset;
use serde::{Deserialize, de};

/// The selection and the format of a status report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRequest {
    /// The integrations to report on.
    pub selection: Selection,
    /// The format of the report.
    pub format: Format,
}

/// The format of a status report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON, for programs.
    #[default]
    Json,
    /// A text table of the integrations, with the summary below it.
    Table,
    /// A few lines of text, without the integrations.
    Summary,
    /// An HTML fragment for a CloudWatch custom widget.
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
    widget_context: Option<Object<WidgetContext>>,
}

/// The value of `format`.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
enum FormatName {
    Json,
    Table,
    Summary,
    Html,
}

impl TryFrom<String> for FormatName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "json" => Ok(Self::Json),
            "table" => Ok(Self::Table),
            "summary" => Ok(Self::Summary),
            "html" => Ok(Self::Html),
            other => {
                Err(format!("got {}, expected \"json\", \"table\", \"summary\" or \"html\"", quoted(other)))
            }
        }
    }
}

/// What CloudWatch adds to a custom widget's event. Unknown fields are ignored, because AWS may add some.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_about.html>
#[derive(Default, Deserialize)]
struct WidgetContext {
    theme: Option<String>,
    timezone: Option<Object<TimeZone>>,
}

#[derive(Deserialize)]
struct TimeZone {
    // `offsetInMinutes` has the same offset, but AWS does not document its sign.
    #[serde(rename = "offsetISO")]
    offset: Option<String>,
}

pub(super) fn request(event: StatusEvent) -> Result<Request, BadEvent> {
    let format = match (event.format.unwrap_or(FormatName::Json), event.widget_context) {
        (FormatName::Html, context) => Format::Html(display(context.unwrap_or_default().0)),
        (_, Some(_)) => {
            return Err(BadEvent("widgetContext: allowed only with \"format\":\"html\"".into()));
        }
        (FormatName::Json, None) => Format::Json,
        (FormatName::Table, None) => Format::Table,
        (FormatName::Summary, None) => Format::Summary,
    };
    Ok(Request::Status(StatusRequest { selection: event.team_id.selection(), format }))
}

/// The theme and time zone of a widget. The defaults are light and UTC, also for a value that cannot be parsed.
fn display(context: WidgetContext) -> Display {
    let offset = context.timezone.and_then(|Object(zone)| zone.offset?.parse::<FixedOffset>().ok());
    let offset = offset.filter(|offset| offset.local_minus_utc() != 0);
    Display {
        dark: context.theme.as_deref() == Some("dark"),
        offset_minutes: offset.map_or(0, |offset| offset.local_minus_utc() / 60),
        zone: offset.map_or_else(|| "UTC".into(), |offset| format!("UTC{offset}")),
    }
}

/// CloudWatch's request for the widget's help text. It also carries the widget's own parameters.
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
