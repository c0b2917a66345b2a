//! The status report as an HTML fragment for a CloudWatch custom widget. The fragment must never contain a script, load
//! an external resource or style elements outside its own class. The templates escape every value except the style
//! sheet, which contains no data.

use super::{IntegrationStatus, StatusReport, counted, in_words, printable, relative};
use crate::domain::{display::Display, due::Health, integration::UnixTime};
use chrono::{DateTime, Datelike, FixedOffset, Offset, Utc};
use maud::{Markup, PreEscaped, html};

/// The help text of the widget, in Markdown: the response to `{"describe": true}`.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_about.html>
pub const HELP: &str = r"## TikTok Shop tokens

Shows the health of the integrations' tokens: the number of integrations in each state, the refresh tokens that expire
soon, the access tokens that expire in the next 7 days, the integrations that need attention, and warnings. It never
shows a token.

State | Meaning
---|---
**unreadable** | An attribute of the row is missing or has the wrong type, so the function cannot refresh it.
**cannot refresh** | The refresh token has expired, or TikTok rejected it: the seller must connect again.
**expired** | The access token is missing or expires within 5 minutes.
**expiring soon** | The access token expires within 30 minutes.
**need a refresh** | The access token is due for a refresh.
**healthy** | None of the above.
**inactive** | The row has a status of your own, so the function leaves it alone.

### Widget parameters

Parameter | Meaning
---|---
**team_id** | Shows only this team's integrations. Defaults to all teams.

### Example parameters

```yaml
action: status
format: html
team_id: 1
```
";

/// The column headings of the table of integrations.
const HEADINGS: [&str; 5] = ["Integration", "State", "Access token", "Refresh token", "Last error"];
/// The maximum number of integrations in the table.
const MAX_ROWS: usize = 50;
/// The maximum number of warnings in the list.
const MAX_WARNINGS: usize = 20;
/// The maximum length of a name or an id, in characters.
const MAX_NAME: usize = 48;
/// The maximum length of a custom status, in characters. Its column does not wrap.
const MAX_STATUS: usize = 20;
/// The maximum length of an error, in characters.
const MAX_ERROR: usize = 180;
/// The maximum length of a warning, in characters: enough for two integrations with long ids.
const MAX_WARNING: usize = 300;

const DAY: i64 = 86_400;
/// The period that the chart covers, in seconds.
const SPAN: i64 = 7 * DAY;
/// The width of one day's column in the chart. Eight columns fit a narrow widget without shrinking the text.
const COLUMN: usize = 48;
/// The width of a bar.
const BAR_WIDTH: usize = 32;
/// The y coordinate of the chart's baseline.
const BASELINE: u64 = 108;
/// The height of the tallest bar.
const MAX_HEIGHT: u64 = 90;

/// The rules that both themes share. Every selector starts with the fragment's own class.
const STYLE: &str = "\
.ttr{container-type:inline-size;box-sizing:border-box;padding:12px 14px;font:13px/1.45 'Amazon Ember','Open Sans','Helvetica Neue',Arial,sans-serif}\
.ttr *{box-sizing:border-box}\
.ttr h3{margin:18px 0 6px;font-size:14px;font-weight:700;line-height:1.3}\
.ttr p{margin:4px 0}\
.ttr .ttr-tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(96px,1fr));gap:8px;margin:8px 0}\
.ttr .ttr-tile{padding:7px 6px 7px 8px;border:1px solid;border-left-width:4px;border-radius:4px}\
.ttr .ttr-tile b{display:block;font-size:24px;line-height:1.2}\
.ttr .ttr-small b{font-size:17px}\
.ttr svg{display:block;width:100%;max-width:440px;height:auto}\
.ttr svg text{font-size:12px}\
.ttr table{width:100%;color:inherit;font:inherit;border-collapse:collapse;text-align:left}\
.ttr th,.ttr td{padding:5px 12px 5px 0;border-bottom:1px solid;vertical-align:top;font-size:13px}\
.ttr th{font-weight:700;white-space:nowrap}\
.ttr td{overflow-wrap:anywhere}\
.ttr td.ttr-fixed{white-space:nowrap}\
.ttr small{font-size:12px}\
.ttr ul{margin:4px 0;padding-left:18px;list-style:disc}\
.ttr li{overflow-wrap:anywhere}";

/// The rules for a narrow widget: the cells of a row stack, each with its heading.
const NARROW: &str = "\
@container (max-width:720px){\
.ttr thead{display:none}\
.ttr table,.ttr tbody,.ttr tr,.ttr td{display:block}\
.ttr tr{padding:6px 0;border-bottom:1px solid}\
.ttr td,.ttr td.ttr-fixed{display:flex;gap:8px;padding:1px 0;border-bottom:0;white-space:normal}\
.ttr td::before{content:attr(data-heading);flex:0 0 104px}\
}";

impl StatusReport {
    /// A self-contained HTML fragment: counts, upcoming expiries, the integrations that need attention, and warnings.
    pub fn html(&self, display: &Display) -> String {
        let local = LocalTime::new(display, self.generated_at);
        let fragment = html! {
            div.ttr {
                (style(display.dark))
                (self.overview(&local))
                (self.expiring_refresh_tokens())
                (self.expiring_access_tokens(&local))
                (self.urgent_integrations(&local))
                (self.warning_list())
                // This class turns off CloudWatch's default styles.
                div.cwdb-no-default-styles {}
            }
        };
        fragment.into_string()
    }

    fn overview(&self, local: &LocalTime) -> Markup {
        let counts = &self.counts;
        html! {
            p {
                b { (counted(counts.total, "integration")) }
                " "
                small.ttr-dim { "at " (local.date_and_time(self.generated_at)) ", times in " (local.zone) }
            }
            div.ttr-tiles {
                // These two are rare, so they have a tile only if there are any.
                @if counts.unreadable > 0 { (tile("bad", counts.unreadable, "unreadable")) }
                (tile("bad", counts.cannot_refresh, "cannot refresh"))
                (tile("bad", counts.expired, "expired"))
                (tile("warn", counts.expiring_soon, "expiring soon"))
                (tile("due", counts.needs_refresh, "need a refresh"))
                (tile("good", counts.healthy, "healthy"))
                @if counts.inactive > 0 { (tile("none", counts.inactive, "inactive")) }
            }
        }
    }

    fn expiring_refresh_tokens(&self) -> Markup {
        let tokens = &self.refresh_tokens;
        html! {
            h3 { "Expiring refresh tokens" }
            div.ttr-tiles.ttr-small {
                (tile("bad", tokens.expired, "expired or missing"))
                (tile("bad", tokens.within_1_day, "within 1 day"))
                (tile("warn", tokens.within_7_days, "within 7 days"))
                (tile("warn", tokens.within_14_days, "within 14 days"))
                (tile("due", tokens.within_30_days, "within 30 days"))
            }
        }
    }

    fn expiring_access_tokens(&self, local: &LocalTime) -> Markup {
        let counts = &self.counts;
        html! {
            h3 { "Access tokens that expire in the next 7 days" }
            // A chart of the empty list of a summary would suggest that nothing expires.
            @if self.integrations.is_empty() && counts.total > counts.unreadable {
                p.ttr-dim { "This report lists no integrations." }
            } @else {
                (chart(&self.expiring_by_day(local), local))
            }
            @if let Some(at) = self.soonest_access_token_expiry {
                p { "Earliest expiry of an active integration: " (local.format(at)) " (" (relative(at, local.now)) ")." }
            }
            @if let Some(n) = self.truncated {
                p.ttr-dim { (n) " less urgent integrations are not included." }
            }
        }
    }

    /// The number of access tokens that expire on each local day of the next 7 times 24 hours, from today on. Left out are
    /// expired integrations, which have their own tile and may have an expiry without a token, and inactive ones, which nobody
    /// refreshes.
    fn expiring_by_day(&self, local: &LocalTime) -> Vec<u64> {
        let since_midnight = local.since_midnight();
        let days = (since_midnight + SPAN + DAY - 1) / DAY;
        let mut counts = vec![0; usize::try_from(days).unwrap_or_default()];
        for integration in &self.integrations {
            if matches!(integration.state, Health::Expired | Health::Inactive) {
                continue;
            }
            let Some(at) = integration.access_token_expires_at else { continue };
            let left = at.seconds_from(self.generated_at);
            let day = (0..SPAN).contains(&left).then_some((since_midnight + left) / DAY);
            if let Some(count) = day.and_then(|day| counts.get_mut(usize::try_from(day).ok()?)) {
                *count += 1;
            }
        }
        counts
    }

    fn urgent_integrations(&self, local: &LocalTime) -> Markup {
        let counts = &self.counts;
        let urgent = counts.unreadable + counts.cannot_refresh + counts.expired + counts.expiring_soon;
        let rows: Vec<&IntegrationStatus> =
            self.integrations.iter().filter(|row| is_urgent(row.state)).take(MAX_ROWS).collect();
        html! {
            h3 { "Needs attention" }
            @if counts.total == 0 {
                p.ttr-dim { "There are no integrations yet." }
            } @else if urgent == 0 {
                p.ttr-dim { "No integration needs attention." }
            } @else if rows.is_empty() {
                p.ttr-dim { (urgent) " integrations that this report does not list." }
            } @else {
                table {
                    thead { tr { @for heading in HEADINGS { th { (heading) } } } }
                    tbody { @for integration in &rows { (row(integration, local)) } }
                }
                // The report may list fewer integrations than it counts.
                (more(urgent.saturating_sub(rows.len() as u64)))
            }
        }
    }

    fn warning_list(&self) -> Markup {
        html! {
            @if !self.warnings.is_empty() {
                h3 { "Warnings" }
                ul {
                    @for warning in self.warnings.iter().take(MAX_WARNINGS) { li { (truncated(warning, MAX_WARNING)) } }
                }
                (more(self.warnings.len().saturating_sub(MAX_WARNINGS) as u64))
            }
        }
    }
}

/// The time of the report, and the time zone of its reader.
struct LocalTime {
    now: DateTime<Utc>,
    offset: FixedOffset,
    zone: String,
}

impl LocalTime {
    fn new(display: &Display, now: DateTime<Utc>) -> Self {
        let offset = display.offset_minutes.checked_mul(60).and_then(FixedOffset::east_opt);
        let zone = match (offset, display.zone.as_str()) {
            // An offset out of range is not applied, so its name must not show either.
            (None, _) => "UTC".to_owned(),
            (Some(offset), "") => format!("UTC{offset}"),
            (Some(_), zone) => truncated(zone, MAX_NAME),
        };
        Self { now, offset: offset.unwrap_or_else(|| Utc.fix()), zone }
    }

    fn date_and_time(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.offset).format("%-d %b %Y %H:%M").to_string()
    }

    /// A stored number as a time, if it is in range. The table may hold any number.
    fn time(&self, at: UnixTime) -> Option<DateTime<FixedOffset>> {
        let time = DateTime::from_timestamp(at.0, 0).filter(|time| at.0 > 0 && time.year() < 10_000)?;
        Some(time.with_timezone(&self.offset))
    }

    fn format(&self, at: UnixTime) -> String {
        let Some(time) = self.time(at) else { return format!("invalid time {}", at.0) };
        let is_this_year = time.year() == self.now.with_timezone(&self.offset).year();
        time.format(if is_this_year { "%-d %b %H:%M" } else { "%-d %b %Y %H:%M" }).to_string()
    }

    /// The time since local midnight, in seconds.
    fn since_midnight(&self) -> i64 {
        (self.now.timestamp() + i64::from(self.offset.local_minus_utc())).rem_euclid(DAY)
    }
}

fn is_urgent(state: Health) -> bool {
    matches!(state, Health::Unreadable | Health::CannotRefresh | Health::Expired | Health::ExpiringSoon)
}

/// A stored value without control characters, truncated to `limit` characters.
fn truncated(text: &str, limit: usize) -> String {
    let mut truncated = printable(&text.chars().take(limit).collect::<String>());
    if text.chars().nth(limit).is_some() {
        truncated.push('…');
    }
    truncated
}

/// A tile with a count. A count of zero has no alarming color.
fn tile(tone: &str, count: u64, label: &str) -> Markup {
    let tone = if count == 0 { "none" } else { tone };
    html! { div.ttr-tile.{ "ttr-" (tone) } { b { (count) } (label) } }
}

/// An integration's row of the table.
fn row(integration: &IntegrationStatus, local: &LocalTime) -> Markup {
    let key = &integration.key;
    let key = format!("{} / {}", truncated(&key.team_id, MAX_NAME), truncated(&key.integration_id, MAX_NAME));
    let tone = if integration.state == Health::ExpiringSoon { "warn" } else { "bad" };
    let [name, state, access_token, refresh_token, error] = HEADINGS;
    html! {
        tr {
            td data-heading=(name) {
                div {
                    @match integration.seller_name.as_deref() {
                        None | Some("") => (key),
                        Some(name) => { b { (truncated(name, MAX_NAME)) } (second_line(&key)) }
                    }
                }
            }
            td.ttr-fixed data-heading=(state) {
                div {
                    b.{ "ttr-" (tone) } { (in_words(integration.state.as_str())) }
                    @if let Some(status) = integration.status.as_deref().filter(|status| *status != "active") {
                        (second_line(&format!("status {}", truncated(status, MAX_STATUS))))
                    }
                }
            }
            td.ttr-fixed data-heading=(access_token) { div { (expiry(integration.access_token_expires_at, local)) } }
            td.ttr-fixed data-heading=(refresh_token) { div { (expiry(integration.refresh_token_expires_at, local)) } }
            td data-heading=(error) { div { (last_error(integration, local)) } }
        }
    }
}

/// When a token expires, absolute and relative.
fn expiry(at: Option<UnixTime>, local: &LocalTime) -> Markup {
    html! {
        @if let Some(at) = at {
            (local.format(at))
            @if local.time(at).is_some() { (second_line(&relative(at, local.now))) }
        } @else { "–" }
    }
}

fn last_error(integration: &IntegrationStatus, local: &LocalTime) -> Markup {
    let at = integration.error_at.map(|at| local.format(at));
    let failures = integration.consecutive_failures;
    let failures = (failures > 1).then(|| format!("{failures} failures in a row"));
    let details: Vec<String> = at.into_iter().chain(failures).collect();
    html! {
        @if let Some(error) = integration.last_error() {
            (truncated(&error, MAX_ERROR))
            @if !details.is_empty() { (second_line(&details.join(", "))) }
        } @else { "–" }
    }
}

/// The second line of a cell, in a dim color.
fn second_line(text: &str) -> Markup {
    html! { div { small.ttr-dim { (text) } } }
}

/// The number of items that a list omits.
fn more(omitted: u64) -> Markup {
    html! { @if omitted > 0 { p.ttr-dim { "and " (omitted) " more" } } }
}

/// The bar chart of the next 7 days: a bar for each local day, with its number above and its day below.
fn chart(days: &[u64], local: &LocalTime) -> Markup {
    let (total, max) = (days.iter().sum::<u64>(), days.iter().copied().max().unwrap_or(0));
    if max == 0 {
        return html! { p.ttr-dim { "No access token expires in this period." } };
    }
    let title = format!(
        "Access tokens that expire in the next 7 days: {total}, at most {max} in a day; times in {}",
        local.zone
    );
    let width = days.len() * COLUMN;
    html! {
        svg viewBox={ "0 0 " (width) " 128" } role="img" aria-label=(title) {
            title { (title) }
            @for (day, count) in days.iter().enumerate() { (bar(day, *count, max, local)) }
            path.ttr-floor d={ "M0 " (BASELINE) "H" (width) } {}
        }
    }
}

/// The column of the day after so many days, scaled to the maximum count `max`.
fn bar(day: usize, count: u64, max: u64, local: &LocalTime) -> Markup {
    let height = (count * MAX_HEIGHT).div_ceil(max);
    let middle = day * COLUMN + COLUMN / 2;
    let noon = i64::try_from(day).unwrap_or_default() * DAY - local.since_midnight() + DAY / 2;
    let date = local.time(UnixTime(local.now.timestamp() + noon));
    let name = match (day, date) {
        // Only what is left of it counts.
        (0, _) => "today".to_owned(),
        (_, Some(date)) => date.format("%a %-d").to_string(),
        (_, None) => String::new(),
    };
    html! {
        @if count > 0 {
            rect.ttr-bar x=(middle - BAR_WIDTH / 2) y=(BASELINE - height) width=(BAR_WIDTH) height=(height) {}
            text.ttr-count x=(middle) y=(BASELINE - height - 4) text-anchor="middle" { (count) }
        }
        text x=(middle) y="123" text-anchor="middle" { (name) }
    }
}

/// The style sheet, which contains no data.
fn style(dark: bool) -> Markup {
    // All colors but that of the thin lines have a contrast of at least 4.5 with the background.
    let [background, text, dim, line, bad, warn, due, good] = if dark {
        ["#161d26", "#e9ebed", "#b6bec9", "#414d5c", "#ff7a7a", "#f2b844", "#6db3f8", "#5fc98b"]
    } else {
        ["#ffffff", "#16191f", "#545b64", "#d5dbdb", "#c7250e", "#9a5b00", "#0b63b5", "#0b7a2b"]
    };
    let colors = format!(
        ".ttr{{background:{background};color:{text}}}\
         .ttr .ttr-tile,.ttr th,.ttr td,.ttr tr{{border-color:{line}}}\
         .ttr .ttr-dim,.ttr .ttr-none,.ttr td::before{{color:{dim}}}\
         .ttr .ttr-tile.ttr-bad{{border-left-color:{bad}}}.ttr b.ttr-bad,.ttr .ttr-bad b{{color:{bad}}}\
         .ttr .ttr-tile.ttr-warn{{border-left-color:{warn}}}.ttr b.ttr-warn,.ttr .ttr-warn b{{color:{warn}}}\
         .ttr .ttr-tile.ttr-due{{border-left-color:{due}}}.ttr .ttr-due b{{color:{due}}}\
         .ttr .ttr-tile.ttr-good{{border-left-color:{good}}}.ttr .ttr-good b{{color:{good}}}\
         .ttr svg text{{fill:{dim}}}.ttr svg .ttr-count{{fill:{text}}}.ttr .ttr-bar{{fill:{due}}}\
         .ttr .ttr-floor{{stroke:{dim};fill:none}}"
    );
    html! { style { (PreEscaped(STYLE)) (PreEscaped(NARROW)) (PreEscaped(colors)) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::integration::IntegrationKey,
        status_report::{RefreshTokenCounts, StateCounts},
    };

    const NOW: i64 = 1_795_399_200; // 2026-11-23 02:00 UTC, a Monday
    const HOSTILE: &str = "<img src=x onerror=alert(1)>";

    fn empty() -> StatusReport {
        StatusReport {
            action: "status",
            generated_at: DateTime::from_timestamp(NOW, 0).unwrap(),
            counts: StateCounts::default(),
            refresh_tokens: RefreshTokenCounts::default(),
            soonest_access_token_expiry: None,
            warnings: Vec::new(),
            integrations: Vec::new(),
            truncated: None,
        }
    }

    fn integration(state: Health, access_in: i64) -> IntegrationStatus {
        IntegrationStatus {
            state,
            access_token_expires_at: Some(UnixTime(NOW + access_in)),
            key: IntegrationKey { team_id: "1".into(), integration_id: "7".into() },
            seller_name: Some("Bánh Mì".into()),
            status: Some("active".into()),
            refresh_token_expires_at: Some(UnixTime(NOW + 300 * DAY)),
            last_refreshed_at: None,
            error_reason: None,
            error_code: None,
            error_message: None,
            error_at: None,
            consecutive_failures: 0,
            shops: Vec::new(),
        }
    }

    /// A report on these integrations, with their counts.
    fn report(integrations: Vec<IntegrationStatus>) -> StatusReport {
        let mut counts = StateCounts::default();
        for row in &integrations {
            counts.add(row.state);
        }
        StatusReport { counts, integrations, ..empty() }
    }

    fn zone(offset_minutes: i32, zone: &str) -> Display {
        Display { dark: false, offset_minutes, zone: zone.into() }
    }

    fn html(report: &StatusReport) -> String {
        let html = report.html(&zone(0, "UTC"));
        assert_balanced(&html);
        html
    }

    /// Checks that every tag is closed in order and that every attribute is in double quotes.
    fn assert_balanced(html: &str) {
        let mut open = Vec::new();
        for piece in html.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a closing >");
            assert!(!text.contains('>'), "a stray > after <{tag}>");
            assert!(tag.matches('"').count() % 2 == 0, "an unbalanced quote in <{tag}>");
            let mut names = tag.split('"').step_by(2).map(|name| name.strip_suffix('=').unwrap_or(name));
            assert!(
                !names.any(|name| name.contains(['=', '\''])),
                "an attribute without double quotes in <{tag}>"
            );
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "in {html}");
            } else {
                open.push(tag.split(' ').next().unwrap());
            }
        }
        assert!(open.is_empty(), "unclosed: {open:?}");
    }

    #[test]
    fn stored_values_are_escaped() {
        let text = format!("{HOSTILE}\"'&\u{0}");
        let mut hostile = integration(Health::CannotRefresh, 3_600);
        hostile.key = IntegrationKey { team_id: text.as_str().into(), integration_id: text.as_str().into() };
        hostile.seller_name = Some(text.clone());
        hostile.status = Some(text.clone());
        hostile.error_message = Some(text.clone());
        let mut coded = integration(Health::Expired, -5);
        coded.error_code = Some(text.clone());
        let report = StatusReport { warnings: vec![text.clone()], ..report(vec![hostile, coded]) };
        let html = report.html(&zone(0, &text));
        assert_balanced(&html);
        assert!(!html.contains("<img") && !html.contains('\u{0}'), "{html}");
        let escaped = "&lt;img src=x onerror=alert(1)&gt;&quot;'&amp; ";
        // Two ids, name, message, code, warning; the zone in the overview and in the chart's two titles. The status is
        // truncated.
        assert_eq!(html.matches(escaped).count(), 9, "{html}");
        assert!(html.contains("status &lt;img src=x onerror=a…"), "{html}");
        assert!(html.contains(&format!("times in {escaped}\">")), "inside an attribute: {html}");
    }

    #[test]
    fn the_fragment_has_no_script_and_no_external_resource() {
        let html = html(&report(vec![integration(Health::ExpiringSoon, 900)])).to_lowercase();
        for unwanted in ["<script", "<link", "<img", "<iframe", "url(", "@import", "href", "http", " on"] {
            let found = html.split('<').any(|piece| {
                let tag = piece.split('>').next().unwrap_or_default();
                format!("<{tag}").contains(unwanted)
            });
            assert!(!found, "{unwanted} in {html}");
        }
        assert!(!html.contains("url(") && !html.contains("@import"));
    }

    #[test]
    fn every_selector_starts_with_the_fragments_class() {
        for dark in [false, true] {
            let style = style(dark).into_string();
            let rules = style.strip_prefix("<style>").unwrap().strip_suffix("</style>").unwrap();
            // The rules of a narrow widget are one level deeper.
            let rules = rules.replace("@container (max-width:720px){", "").replace("}}", "}");
            for rule in rules.split_terminator('}') {
                let selectors = rule.split_once('{').expect("selectors").0;
                for selector in selectors.split(',') {
                    assert!(selector == ".ttr" || selector.starts_with(".ttr "), "{selector}");
                }
            }
        }
    }

    #[test]
    fn dark_and_light_differ_only_in_the_style_sheet() {
        let report = report(vec![integration(Health::Expired, -60)]);
        let html = |dark| report.html(&Display { dark, ..zone(0, "UTC") });
        let (light, dark) = (html(false), html(true));
        assert_ne!(light, dark);
        let body = |html: &str| html.split_once("</style>").unwrap().1.to_owned();
        assert_eq!(body(&light), body(&dark));
    }

    #[test]
    fn the_counts_are_shown() {
        let counts = StateCounts {
            total: 92,
            cannot_refresh: 11,
            expired: 12,
            expiring_soon: 13,
            needs_refresh: 14,
            healthy: 10,
            inactive: 15,
            unreadable: 17,
        };
        let refresh_tokens = RefreshTokenCounts {
            expired: 21,
            within_1_day: 22,
            within_7_days: 23,
            within_14_days: 24,
            within_30_days: 25,
        };
        let html = html(&StatusReport { counts, refresh_tokens, ..empty() });
        for tile in [
            "<b>92 integrations</b>",
            "<b>17</b>unreadable",
            "<b>15</b>inactive",
            "<b>11</b>cannot refresh",
            "<b>12</b>expired",
            "<b>13</b>expiring soon",
            "<b>14</b>need a refresh",
            "<b>10</b>healthy",
            "<b>21</b>expired or missing",
            "<b>22</b>within 1 day",
            "<b>23</b>within 7 days",
            "<b>24</b>within 14 days",
            "<b>25</b>within 30 days",
        ] {
            assert!(html.contains(tile), "{tile} in {html}");
        }
        assert!(
            html.contains("lists no integrations") && !html.contains("<svg"),
            "a report without integrations has no chart"
        );
    }

    #[test]
    fn an_empty_report_says_so() {
        let html = html(&empty());
        assert!(html.contains("<b>0 integrations</b>") && html.contains("There are no integrations yet."));
        assert!(!html.contains("<svg") && !html.contains("<table") && !html.contains("Warnings"));
    }

    #[test]
    fn the_bars_are_the_local_days_from_now_to_the_end_of_a_week() {
        let healthy = |access_in| integration(Health::Healthy, access_in);
        let mut absent = healthy(0);
        absent.access_token_expires_at = None;
        let mut implausible = healthy(0);
        implausible.access_token_expires_at = Some(UnixTime(i64::MIN));
        let (missing, paused) = (integration(Health::Expired, DAY), integration(Health::Inactive, DAY));
        // It is 02:00 UTC, so 22 hours are left of today.
        let left = 22 * 3_600;
        let rows = [-1, 0, left - 1, left, SPAN - 1, SPAN].map(healthy);
        let report = report(rows.into_iter().chain([absent, implausible, missing, paused]).collect());
        let days = |offset_minutes| {
            let local = LocalTime::new(&zone(offset_minutes, "x"), report.generated_at);
            report.expiring_by_day(&local)
        };
        assert_eq!(days(0), [2, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(days(-120), [3, 0, 0, 0, 0, 0, 1], "at midnight, a week has seven days");
        let html = html(&report);
        assert!(
            html.contains("Access tokens that expire in the next 7 days: 4, at most 2 in a day"),
            "{html}"
        );
    }

    #[test]
    fn times_and_days_are_in_the_displays_time_zone() {
        let report =
            report(vec![integration(Health::ExpiringSoon, 1_200), integration(Health::Healthy, 6 * DAY)]);
        let at = |display: &Display| {
            let html = report.html(display);
            assert_balanced(&html);
            html
        };
        let (utc, hanoi, hawaii) = (at(&zone(0, "UTC")), at(&zone(420, "+07:00")), at(&zone(-600, "-10:00")));
        assert!(utc.contains("at 23 Nov 2026 02:00, times in UTC") && utc.contains("23 Nov 02:20"));
        assert!(hanoi.contains("at 23 Nov 2026 09:00, times in +07:00") && hanoi.contains("23 Nov 09:20"));
        assert!(hawaii.contains("at 22 Nov 2026 16:00, times in -10:00") && hawaii.contains("22 Nov 16:20"));
        for (html, tomorrow, last) in
            [(&utc, "Tue 24", "Mon 30"), (&hanoi, "Tue 24", "Mon 30"), (&hawaii, "Mon 23", "Sun 29")]
        {
            let labels: Vec<_> = html.split("y=\"123\" text-anchor=\"middle\">").skip(1).collect();
            let names: Vec<_> = labels.iter().map(|label| label.split('<').next().unwrap()).collect();
            assert_eq!((names[0], names[1], names[7], names.len()), ("today", tomorrow, last, 8));
        }
    }

    #[test]
    fn an_offset_out_of_range_falls_back_to_utc() {
        for offset in [i32::MAX, i32::MIN, 1_440, -1_440] {
            let html = report(vec![integration(Health::Expired, 0)]).html(&zone(offset, "Mars"));
            assert!(html.contains("at 23 Nov 2026 02:00, times in UTC"), "{html}");
        }
        assert!(empty().html(&zone(330, "")).contains("at 23 Nov 2026 07:30, times in UTC+05:30"));
    }

    #[test]
    fn any_stored_number_renders() {
        for number in [i64::MIN, -1, 0, 1, 253_402_300_799, 253_402_300_800, i64::MAX] {
            let mut row = integration(Health::Expired, 0);
            row.access_token_expires_at = Some(UnixTime(number));
            row.refresh_token_expires_at = Some(UnixTime(number));
            row.error_at = Some(UnixTime(number));
            row.error_code = Some("36009999".into());
            let mut report = report(vec![row]);
            report.soonest_access_token_expiry = Some(UnixTime(number));
            for offset in [-1_439, 0, 1_439] {
                assert_balanced(&report.html(&zone(offset, "x")));
            }
        }
        let local = LocalTime::new(&zone(0, "UTC"), empty().generated_at);
        assert_eq!(local.format(UnixTime(0)), "invalid time 0");
        assert_eq!(local.format(UnixTime(4_841_467_787)), "3 Jun 2123 12:09");
    }

    #[test]
    fn the_fifty_most_urgent_integrations_are_listed_and_the_rest_counted() {
        let mut rows: Vec<_> = (0..60).map(|_| integration(Health::CannotRefresh, -DAY)).collect();
        rows.extend((0..5).map(|_| integration(Health::Healthy, 6 * DAY)));
        let mut report = report(rows);
        assert_eq!(html(&report).matches("<tr><td ").count(), 50);
        assert!(html(&report).contains("and 10 more"));
        report.integrations.drain(..20);
        assert!(html(&report).contains("and 20 more"), "integrations that the report omits count too");
        report.integrations.retain(|row| row.state == Health::Healthy);
        assert!(html(&report).contains("60 integrations that this report does not list"));
    }

    #[test]
    fn twenty_warnings_are_listed_and_the_rest_counted() {
        let warnings = (0..23).map(|n| format!("warning {n}")).collect();
        let html = html(&StatusReport { warnings, ..empty() });
        assert_eq!(html.matches("<li>").count(), 20);
        assert!(html.contains("and 3 more"));
    }

    #[test]
    fn thousands_of_long_errors_make_a_small_fragment() {
        let mut row = integration(Health::CannotRefresh, DAY);
        row.seller_name = Some("Cửa hàng ".repeat(100));
        row.error_message = Some("TikTok refused: \"it\" answered <36009999> ".repeat(100));
        let report = StatusReport { warnings: vec!["x&y ".repeat(500); 201], ..report(vec![row; 5_000]) };
        assert!(html(&report).len() < 60_000, "{}", html(&report).len());
    }
}
