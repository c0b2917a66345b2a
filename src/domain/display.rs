//! The display settings of a status report.

/// The theme and time zone that CloudWatch passes to a custom widget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Display {
    /// Whether the console uses its dark theme.
    pub dark: bool,
    /// The time zone's offset from UTC in minutes, positive to the east.
    pub offset_minutes: i32,
    /// The time zone's label, such as `UTC` or `UTC+07:00`.
    pub zone: String,
}
