//! How and where a report is shown to a person.

/// What a CloudWatch custom widget tells of the place where it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Display {
    /// Whether the console is dark.
    pub dark: bool,
    /// The offset of the time zone shown, east of UTC.
    pub offset_minutes: i32,
    /// What the time zone is called, such as `UTC` or `+07:00`.
    pub zone: String,
}
