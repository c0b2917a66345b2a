//! The status report as a fragment of HTML, for a CloudWatch custom widget. It must never hold a script, load anything
//! from elsewhere or style what is outside its own class. The templates escape every value; only the style sheet, which
//! holds no data, goes in as it is.

use super::{Listed, StatusReport, relative};
use crate::domain::{
    display::Display,
    integration::{Health, UnixTime},
};
use chrono::{DateTime, Datelike, FixedOffset, Offset, Utc};
use maud::{Markup, PreEscaped, html};

/// The help text of the widget, in Markdown: the answer to `{"describe": true}`.
pub const HELP: &str = r"## TikTok Shop tokens

How healthy the tokens of all integrations are: how many are in which state, which refresh tokens run out, when the
access tokens expire over the coming 7 days, the integrations to look at first, and warnings. No token is shown.

State | Meaning
---|---
**cannot refresh** | The refresh token has expired, or TikTok refused it: the seller must connect again.
**expired** | The access token is missing, or expires within 5 minutes.
**expiring soon** | The access token expires within 30 minutes.
**need a refresh** | The access token is due for its refresh.
**healthy** | None of these.

### Widget parameters

Parameter | Meaning
---|---
**team_id** | Only this team's integrations; all, if it is left out.

### Example parameters

```yaml
action: status
format: html
team_id: 1
```
";

/// What the columns of the listed integrations show.
const HEADINGS: [&str; 5] = ["Integration", "State", "Access token", "Refresh token", "Last error"];
/// How many integrations are listed at most.
const MAX_ROWS: usize = 50;
/// How many warnings are listed at most.
const MAX_WARNINGS: usize = 20;
/// How many characters of a name or an id are shown.
const MAX_NAME: usize = 48;
/// How many characters of a status of the user's own are shown: its column does not wrap.
const MAX_STATUS: usize = 20;
/// How many characters of an error are shown.
const MAX_ERROR: usize = 180;
/// How many characters of a warning are shown: enough for one that names two integrations by long ids.
const MAX_WARNING: usize = 300;

const DAY: i64 = 86_400;
/// How far the chart looks ahead, in seconds.
const SPAN: i64 = 7 * DAY;
/// How much time a bar stands for, in seconds.
const BAR: i64 = 6 * 3_600;
/// How many seconds a pixel of the chart stands for.
const SECONDS_PER_PIXEL: i64 = 900;
/// Where the chart's first bar begins.
const LEFT: i64 = 36;
/// Where the chart's bars stand.
const FLOOR: i64 = 116;
/// How tall the tallest bar is.
const TALLEST: u64 = 100;

/// The rules of both themes; every selector begins with the fragment's own class.
const STYLE: &str = "\
.ttr{box-sizing:border-box;padding:12px 14px;font:13px/1.45 'Amazon Ember','Open Sans','Helvetica Neue',Arial,sans-serif}\
.ttr *{box-sizing:border-box}\
.ttr h3{margin:18px 0 6px;font-size:14px;font-weight:700;line-height:1.3}\
.ttr p{margin:4px 0}\
.ttr .ttr-tiles{display:flex;flex-wrap:wrap;gap:8px;margin:8px 0}\
.ttr .ttr-tile{flex:1 1 96px;padding:7px 6px 7px 8px;border:1px solid;border-left-width:4px;border-radius:4px}\
.ttr .ttr-tile b{display:block;font-size:24px;line-height:1.2}\
.ttr .ttr-small b{font-size:17px}\
.ttr .ttr-small .ttr-tile{flex-basis:84px}\
.ttr .ttr-wide{overflow-x:auto}\
.ttr svg{display:block;width:100%;min-width:480px;max-width:960px;height:auto}\
.ttr svg text{font-size:12px}\
.ttr table{width:100%;min-width:720px;border-collapse:collapse;text-align:left}\
.ttr th,.ttr td{padding:5px 12px 5px 0;border-bottom:1px solid;vertical-align:top;font-size:13px}\
.ttr th{font-weight:700;white-space:nowrap}\
.ttr td{overflow-wrap:anywhere}\
.ttr td.ttr-fixed{white-space:nowrap}\
.ttr small{font-size:12px}\
.ttr ul{margin:4px 0;padding-left:18px;list-style:disc}\
.ttr li{overflow-wrap:anywhere}";

impl StatusReport {
    /// A self-contained fragment of HTML for a person: health at a glance, what expires when, whom to look at first.
    pub fn html(&self, place: &Display) -> String {
        let local = Local::new(place, self.generated_at);
        let fragment = html! {
            div.ttr {
                (style(place.dark))
                (self.glance(&local))
                (self.refresh_tokens_running_out())
                (self.access_tokens_expiring(&local))
                (self.most_urgent(&local))
                (self.warning_list())
                // CloudWatch's mark for "leave my elements unstyled".
                div.cwdb-no-default-styles {}
            }
        };
        fragment.into_string()
    }

    fn glance(&self, local: &Local) -> Markup {
        let counts = &self.counts;
        let unreadable = counts.total.saturating_sub(self.readable());
        html! {
            p {
                b { (counts.total) @if counts.total == 1 { " integration" } @else { " integrations" } }
                @if unreadable > 0 { ", " (unreadable) " of them unreadable" }
                " "
                small.ttr-dim { "at " (local.date_and_time(self.generated_at)) ", times in " (local.zone) }
            }
            div.ttr-tiles {
                (tile("bad", counts.cannot_refresh, "cannot refresh"))
                (tile("bad", counts.expired, "expired"))
                (tile("warn", counts.expiring_soon, "expiring soon"))
                (tile("due", counts.needs_refresh, "need a refresh"))
                (tile("good", counts.healthy, "healthy"))
            }
        }
    }

    fn refresh_tokens_running_out(&self) -> Markup {
        let tokens = &self.refresh_tokens;
        html! {
            h3 { "Refresh tokens running out" }
            div.ttr-tiles.ttr-small {
                (tile("bad", tokens.expired, "expired or missing"))
                (tile("bad", tokens.within_1_day, "within 1 day"))
                (tile("warn", tokens.within_7_days, "within 7 days"))
                (tile("warn", tokens.within_14_days, "within 14 days"))
                (tile("due", tokens.within_30_days, "within 30 days"))
            }
        }
    }

    fn access_tokens_expiring(&self, local: &Local) -> Markup {
        html! {
            h3 { "Access tokens expiring in the coming 7 days" }
            // A chart of a summary's empty list would say that nothing expires.
            @if self.integrations.is_empty() && self.readable() > 0 {
                p.ttr-dim { "This report lists no integrations." }
            } @else {
                (chart(&self.bars(), local))
            }
            @if let Some(at) = self.soonest_access_token_expiry {
                p { "The soonest in use: " (local.moment(at)) " (" (relative(at, local.now)) ")." }
            }
            @if let Some(n) = self.truncated {
                p.ttr-dim { "Without " (n) " integrations, less urgent than these." }
            }
        }
    }

    /// How many access tokens expire in each quarter of a day from now on. Integrations that count as expired have
    /// their own tile, and may have an expiry without a token.
    fn bars(&self) -> Vec<u64> {
        let ahead: Vec<i64> = self
            .integrations
            .iter()
            .filter(|listed| listed.state != Health::Expired)
            .filter_map(|listed| Some(listed.access_token_expires_at?.seconds_from(self.generated_at)))
            .collect();
        let expiring =
            |begin: i64| ahead.iter().filter(|at| (begin..begin + BAR).contains(at)).count() as u64;
        (0..SPAN / BAR).map(|bar| expiring(bar * BAR)).collect()
    }

    fn most_urgent(&self, local: &Local) -> Markup {
        let counts = &self.counts;
        let urgent = counts.cannot_refresh + counts.expired + counts.expiring_soon;
        let rows: Vec<&Listed> =
            self.integrations.iter().filter(|listed| is_urgent(listed.state)).take(MAX_ROWS).collect();
        html! {
            h3 { "Look at these first" }
            @if counts.total == 0 {
                p.ttr-dim { "There are no integrations yet." }
            } @else if urgent == 0 {
                p.ttr-dim { "None needs a person now." }
            } @else if rows.is_empty() {
                p.ttr-dim { (urgent) " integrations, which this report does not list." }
            } @else {
                div.ttr-wide {
                    table {
                        thead { tr { @for heading in HEADINGS { th { (heading) } } } }
                        tbody { @for listed in &rows { (row(listed, local)) } }
                    }
                }
                // A report may list fewer than it counts.
                (more(urgent.saturating_sub(rows.len() as u64)))
            }
        }
    }

    fn warning_list(&self) -> Markup {
        html! {
            @if !self.warnings.is_empty() {
                h3 { "Warnings" }
                ul {
                    @for warning in self.warnings.iter().take(MAX_WARNINGS) { li { (cut(warning, MAX_WARNING)) } }
                }
                (more(self.warnings.len().saturating_sub(MAX_WARNINGS) as u64))
            }
        }
    }

    fn readable(&self) -> u64 {
        let counts = &self.counts;
        counts.healthy + counts.expiring_soon + counts.expired + counts.needs_refresh + counts.cannot_refresh
    }
}

/// The clock on the wall where the report is read.
struct Local {
    now: DateTime<Utc>,
    offset: FixedOffset,
    zone: String,
}

impl Local {
    fn new(place: &Display, now: DateTime<Utc>) -> Self {
        let offset = place.offset_minutes.checked_mul(60).and_then(FixedOffset::east_opt);
        let zone = match (offset, place.zone.as_str()) {
            // An offset that no zone has is not shown as if it were kept.
            (None, _) => "UTC".to_owned(),
            (Some(offset), "") => format!("UTC{offset}"),
            (Some(_), zone) => cut(zone, MAX_NAME),
        };
        Self { now, offset: offset.unwrap_or_else(|| Utc.fix()), zone }
    }

    fn date_and_time(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.offset).format("%-d %b %Y %H:%M").to_string()
    }

    /// The time that a stored number stands for; it may be any number at all.
    fn time(&self, at: UnixTime) -> Option<DateTime<FixedOffset>> {
        let time = DateTime::from_timestamp(at.0, 0).filter(|time| at.0 > 0 && time.year() < 10_000)?;
        Some(time.with_timezone(&self.offset))
    }

    fn moment(&self, at: UnixTime) -> String {
        let Some(time) = self.time(at) else { return format!("{} is no time", at.0) };
        let is_this_year = time.year() == self.now.with_timezone(&self.offset).year();
        time.format(if is_this_year { "%-d %b %H:%M" } else { "%-d %b %Y %H:%M" }).to_string()
    }

    /// How long after local midnight it is, in seconds.
    fn since_midnight(&self) -> i64 {
        (self.now.timestamp() + i64::from(self.offset.local_minus_utc())).rem_euclid(DAY)
    }
}

fn is_urgent(state: Health) -> bool {
    matches!(state, Health::CannotRefresh | Health::Expired | Health::ExpiringSoon)
}

/// A text from the data, fit to be shown: cut to `limit` characters, with blanks for control characters.
fn cut(text: &str, limit: usize) -> String {
    let mut cut: String = text.chars().take(limit).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(limit).is_some() {
        cut.push('…');
    }
    cut
}

/// A counted tile. Nothing counted raises no alarm.
fn tile(tone: &str, count: u64, label: &str) -> Markup {
    let tone = if count == 0 { "none" } else { tone };
    html! { div.ttr-tile.{ "ttr-" (tone) } { b { (count) } (label) } }
}

/// An integration's row of the table.
fn row(listed: &Listed, local: &Local) -> Markup {
    let key = &listed.key;
    let key = format!("{} / {}", cut(&key.team_id, MAX_NAME), cut(&key.integration_id, MAX_NAME));
    let tone = if listed.state == Health::ExpiringSoon { "warn" } else { "bad" };
    html! {
        tr {
            td {
                @match listed.seller_name.as_deref() {
                    None | Some("") => (key),
                    Some(name) => { b { (cut(name, MAX_NAME)) } (second_line(&key)) }
                }
            }
            td.ttr-fixed {
                b.{ "ttr-" (tone) } { (listed.state.as_str().replace('_', " ")) }
                @if listed.status != "active" {
                    (second_line(&format!("status {}", cut(&listed.status, MAX_STATUS))))
                }
            }
            td.ttr-fixed { (expiry(listed.access_token_expires_at, local)) }
            td.ttr-fixed { (expiry(listed.refresh_token_expires_at, local)) }
            td { (last_error(listed, local)) }
        }
    }
}

/// When a token expires, and how far away that is.
fn expiry(at: Option<UnixTime>, local: &Local) -> Markup {
    html! {
        @if let Some(at) = at {
            (local.moment(at))
            @if local.time(at).is_some() { (second_line(&relative(at, local.now))) }
        } @else { "–" }
    }
}

fn last_error(listed: &Listed, local: &Local) -> Markup {
    let at = listed.error_at.map(|at| local.moment(at));
    let failures = listed.consecutive_failures;
    let failures = (failures > 1).then(|| format!("{failures} failures in a row"));
    let details: Vec<String> = at.into_iter().chain(failures).collect();
    html! {
        @if let Some(error) = listed.error_message.as_ref().or(listed.error_code.as_ref()) {
            (cut(error, MAX_ERROR))
            @if !details.is_empty() { (second_line(&details.join(", "))) }
        } @else { "–" }
    }
}

/// A second, quieter line of a cell.
fn second_line(text: &str) -> Markup {
    html! { div { small.ttr-dim { (text) } } }
}

/// How many items a list leaves out.
fn more(left_out: u64) -> Markup {
    html! { @if left_out > 0 { p.ttr-dim { "and " (left_out) " more" } } }
}

/// The bars from now to a week ahead, with the days of the local calendar below them.
fn chart(bars: &[u64], local: &Local) -> Markup {
    let (total, max) = (bars.iter().sum::<u64>(), bars.iter().copied().max().unwrap_or(0));
    if max == 0 {
        return html! { p.ttr-dim { "None expires in this time." } };
    }
    let title = format!(
        "Access tokens that expire in the coming 7 days: {total}, at most {max} in 6 hours; times in {}",
        local.zone
    );
    let (right, top) = (LEFT + SPAN / SECONDS_PER_PIXEL, FLOOR - TALLEST.cast_signed());
    html! {
        div.ttr-wide {
            svg viewBox={ "0 0 " (right + 8) " 138" } role="img" aria-label=(title) {
                title { (title) }
                @for day in 0..=SPAN / DAY { (day_mark(day * DAY - local.since_midnight(), local)) }
                path.ttr-line d={ "M" (LEFT) " " (top) "H" (right) } {}
                @for (index, count) in (0..).zip(bars) { (bar(index, *count, max, local)) }
                path.ttr-floor d={ "M" (LEFT) " " (FLOOR) "H" (right) } {}
                text x=(LEFT - 6) y=(top + 4) text-anchor="end" { (max) }
                text x=(LEFT - 6) y=(FLOOR) text-anchor="end" { "0" }
            }
        }
    }
}

/// The bar of the chart for `count` of at most `max` tokens, with its count and its times as a tooltip.
fn bar(index: i64, count: u64, max: u64, local: &Local) -> Markup {
    let moment = |index: i64| local.moment(UnixTime(local.now.timestamp() + index * BAR));
    let height = (count * TALLEST).div_ceil(max).cast_signed();
    let width = BAR / SECONDS_PER_PIXEL;
    html! {
        @if count > 0 {
            rect.ttr-bar x=(LEFT + index * width + 2) y=(FLOOR - height) width=(width - 4) height=(height) {
                title { (count) ": " (moment(index)) " to " (moment(index + 1)) }
            }
        }
    }
}

/// The line at which a local day begins, and its name. `begin` is told from now, in seconds.
fn day_mark(begin: i64, local: &Local) -> Markup {
    let (from, until) = (begin.max(0), (begin + DAY).min(SPAN));
    let x = |at: i64| LEFT + at / SECONDS_PER_PIXEL;
    // The ends of the week may be too narrow for a name.
    let has_room = until - from >= DAY / 2;
    let noon = local.time(UnixTime(local.now.timestamp() + begin + DAY / 2)).filter(|_| has_room);
    html! {
        @if (1..SPAN).contains(&begin) { path.ttr-line d={ "M" (x(begin)) " 8V" (FLOOR + 6) } {} }
        @if let Some(noon) = noon {
            text x=(x(i64::midpoint(from, until))) y="132" text-anchor="middle" { (noon.format("%a %-d")) }
        }
    }
}

/// The style sheet, all of it our own text.
fn style(dark: bool) -> Markup {
    // All but the thin lines have a contrast of 4.5 or more with what they stand on.
    let [back, text, dim, line, bad, warn, due, good] = if dark {
        ["#161d26", "#e9ebed", "#b6bec9", "#414d5c", "#ff7a7a", "#f2b844", "#6db3f8", "#5fc98b"]
    } else {
        ["#ffffff", "#16191f", "#545b64", "#d5dbdb", "#c7250e", "#9a5b00", "#0b63b5", "#0b7a2b"]
    };
    let colours = format!(
        ".ttr{{background:{back};color:{text}}}\
         .ttr .ttr-tile,.ttr th,.ttr td{{border-color:{line}}}\
         .ttr .ttr-dim,.ttr .ttr-none{{color:{dim}}}\
         .ttr .ttr-tile.ttr-bad{{border-left-color:{bad}}}.ttr b.ttr-bad,.ttr .ttr-bad b{{color:{bad}}}\
         .ttr .ttr-tile.ttr-warn{{border-left-color:{warn}}}.ttr b.ttr-warn,.ttr .ttr-warn b{{color:{warn}}}\
         .ttr .ttr-tile.ttr-due{{border-left-color:{due}}}.ttr .ttr-due b{{color:{due}}}\
         .ttr .ttr-tile.ttr-good{{border-left-color:{good}}}.ttr .ttr-good b{{color:{good}}}\
         .ttr svg text{{fill:{dim}}}.ttr .ttr-bar{{fill:{due}}}\
         .ttr .ttr-line{{stroke:{line};fill:none}}.ttr .ttr-floor{{stroke:{dim};fill:none}}"
    );
    html! { style { (PreEscaped(STYLE)) (PreEscaped(colours)) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::integration::IntegrationKey,
        status_report::{RefreshTokenCounts, StateCounts},
    };

    const NOW: i64 = 1_795_399_200; // 2026-11-23 02:00 UTC, a Monday
    const NASTY: &str = "<img src=x onerror=alert(1)>";

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

    fn listed(state: Health, access_in: i64) -> Listed {
        Listed {
            state,
            access_token_expires_at: Some(UnixTime(NOW + access_in)),
            key: IntegrationKey { team_id: "1".into(), integration_id: "7".into() },
            seller_name: Some("Bánh Mì".into()),
            status: "active".into(),
            refresh_token_expires_at: Some(UnixTime(NOW + 300 * DAY)),
            last_refreshed_at: None,
            error_code: None,
            error_message: None,
            error_at: None,
            consecutive_failures: 0,
        }
    }

    /// A report on these, counted as the real one counts.
    fn report(integrations: Vec<Listed>) -> StatusReport {
        let count = |state| integrations.iter().filter(|listed| listed.state == state).count() as u64;
        let counts = StateCounts {
            total: integrations.len() as u64,
            healthy: count(Health::Healthy),
            expiring_soon: count(Health::ExpiringSoon),
            expired: count(Health::Expired),
            needs_refresh: count(Health::NeedsRefresh),
            cannot_refresh: count(Health::CannotRefresh),
        };
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

    /// Every tag that is opened is closed, in order, and every attribute is in double quotes.
    fn assert_balanced(html: &str) {
        let mut open = Vec::new();
        for piece in html.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "a stray > after <{tag}>");
            assert!(tag.matches('"').count() % 2 == 0, "an open quote in <{tag}>");
            let mut names = tag.split('"').step_by(2).map(|name| name.strip_suffix('=').unwrap_or(name));
            assert!(!names.any(|name| name.contains(['=', '\''])), "not in double quotes: <{tag}>");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "in {html}");
            } else {
                open.push(tag.split(' ').next().unwrap());
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    #[test]
    fn whatever_the_data_holds_is_only_text() {
        let nasty = format!("{NASTY}\"'&\u{0}");
        let mut hostile = listed(Health::CannotRefresh, 3_600);
        hostile.key =
            IntegrationKey { team_id: nasty.as_str().into(), integration_id: nasty.as_str().into() };
        hostile.seller_name = Some(nasty.clone());
        hostile.status.clone_from(&nasty);
        hostile.error_message = Some(nasty.clone());
        let mut coded = listed(Health::Expired, -5);
        coded.error_code = Some(nasty.clone());
        let report = StatusReport { warnings: vec![nasty.clone()], ..report(vec![hostile, coded]) };
        let html = report.html(&zone(0, &nasty));
        assert_balanced(&html);
        assert!(!html.contains("<img") && !html.contains('\u{0}'), "{html}");
        let escaped = "&lt;img src=x onerror=alert(1)&gt;&quot;'&amp; ";
        // Both ids, name, message, code, warning; the zone in the head and in the chart's two titles. The status is cut.
        assert_eq!(html.matches(escaped).count(), 9, "{html}");
        assert!(html.contains("status &lt;img src=x onerror=a…"), "{html}");
        assert!(html.contains(&format!("times in {escaped}\">")), "inside an attribute: {html}");
    }

    #[test]
    fn nothing_runs_and_nothing_is_loaded() {
        let html = html(&report(vec![listed(Health::ExpiringSoon, 900)])).to_lowercase();
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
    fn every_rule_keeps_to_the_fragments_own_class() {
        for dark in [false, true] {
            let style = style(dark).into_string();
            let rules = style.strip_prefix("<style>").unwrap().strip_suffix("</style>").unwrap();
            for rule in rules.split_terminator('}') {
                let selectors = rule.split_once('{').expect("a rule has selectors").0;
                for selector in selectors.split(',') {
                    assert!(selector == ".ttr" || selector.starts_with(".ttr "), "{selector}");
                }
            }
        }
    }

    #[test]
    fn dark_and_light_differ_in_their_style_alone() {
        let report = report(vec![listed(Health::Expired, -60)]);
        let shown = |dark| report.html(&Display { dark, ..zone(0, "UTC") });
        let (light, dark) = (shown(false), shown(true));
        assert_ne!(light, dark);
        let body = |html: &str| html.split_once("</style>").unwrap().1.to_owned();
        assert_eq!(body(&light), body(&dark));
    }

    #[test]
    fn the_counts_are_shown() {
        let counts = StateCounts {
            total: 61,
            cannot_refresh: 11,
            expired: 12,
            expiring_soon: 13,
            needs_refresh: 14,
            healthy: 10,
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
            "<b>61 integrations</b>, 1 of them unreadable",
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
        assert!(html.contains("lists no integrations") && !html.contains("<svg"), "a summary has no chart");
    }

    #[test]
    fn an_empty_report_says_so() {
        let html = html(&empty());
        assert!(html.contains("<b>0 integrations</b>") && html.contains("There are no integrations yet."));
        assert!(!html.contains("<svg") && !html.contains("<table") && !html.contains("Warnings"));
    }

    #[test]
    fn the_bars_begin_now_and_end_in_a_week() {
        let healthy = |access_in| listed(Health::Healthy, access_in);
        let mut absent = healthy(0);
        absent.access_token_expires_at = None;
        let mut absurd = healthy(0);
        absurd.access_token_expires_at = Some(UnixTime(i64::MIN));
        let missing = listed(Health::Expired, DAY);
        let rows =
            vec![healthy(-1), healthy(0), healthy(BAR - 1), healthy(BAR), healthy(SPAN - 1), healthy(SPAN)];
        let report = report(rows.into_iter().chain([absent, absurd, missing]).collect());
        let bars = report.bars();
        assert_eq!((bars.len(), bars[0], bars[1], bars[27], bars.iter().sum()), (28, 2, 1, 1, 4));
        assert!(
            html(&report).contains("Access tokens that expire in the coming 7 days: 4, at most 2 in 6 hours")
        );
    }

    #[test]
    fn times_and_days_are_those_of_the_place() {
        let report = report(vec![listed(Health::ExpiringSoon, 1_200), listed(Health::Healthy, 6 * DAY)]);
        let at = |place: &Display| {
            let html = report.html(place);
            assert_balanced(&html);
            html
        };
        let (utc, hanoi, hawaii) = (at(&zone(0, "UTC")), at(&zone(420, "+07:00")), at(&zone(-600, "-10:00")));
        assert!(utc.contains("at 23 Nov 2026 02:00, times in UTC") && utc.contains("23 Nov 02:20"));
        assert!(hanoi.contains("at 23 Nov 2026 09:00, times in +07:00") && hanoi.contains("23 Nov 09:20"));
        assert!(hawaii.contains("at 22 Nov 2026 16:00, times in -10:00") && hawaii.contains("22 Nov 16:20"));
        // 02:00 is 22 hours before the first midnight, 09:00 is 15, 16:00 is 8.
        for (html, midnight, first_day) in
            [(&utc, 36 + 88, "Mon 23"), (&hanoi, 36 + 60, "Mon 23"), (&hawaii, 36 + 32, "Mon 23")]
        {
            assert!(html.contains(&format!("d=\"M{midnight} 8V")), "{html}");
            assert!(html.contains(&format!(">{first_day}</text>")), "{html}");
        }
        assert!(!hawaii.contains(">Sun 22</text>"), "8 hours have no room for a name");
    }

    #[test]
    fn an_offset_that_no_zone_has_is_shown_as_utc() {
        for offset in [i32::MAX, i32::MIN, 1_440, -1_440] {
            let html = report(vec![listed(Health::Expired, 0)]).html(&zone(offset, "Mars"));
            assert!(html.contains("at 23 Nov 2026 02:00, times in UTC"), "{html}");
        }
        assert!(empty().html(&zone(330, "")).contains("at 23 Nov 2026 07:30, times in UTC+05:30"));
    }

    #[test]
    fn any_number_may_stand_for_a_time() {
        for number in [i64::MIN, -1, 0, 1, 253_402_300_799, 253_402_300_800, i64::MAX] {
            let mut row = listed(Health::Expired, 0);
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
        let local = Local::new(&zone(0, "UTC"), empty().generated_at);
        assert_eq!(local.moment(UnixTime(0)), "0 is no time");
        assert_eq!(local.moment(UnixTime(4_841_467_787)), "3 Jun 2123 12:09");
    }

    #[test]
    fn the_most_urgent_fifty_are_listed_and_the_rest_counted() {
        let mut rows: Vec<_> = (0..60).map(|_| listed(Health::CannotRefresh, -DAY)).collect();
        rows.extend((0..5).map(|_| listed(Health::Healthy, 6 * DAY)));
        let mut report = report(rows);
        assert_eq!(html(&report).matches("<tr><td>").count(), 50);
        assert!(html(&report).contains("and 10 more"));
        report.integrations.drain(..20);
        assert!(html(&report).contains("and 20 more"), "those that the report left out count too");
        report.integrations.retain(|listed| listed.state == Health::Healthy);
        assert!(html(&report).contains("60 integrations, which this report does not list"));
    }

    #[test]
    fn twenty_warnings_are_listed_and_the_rest_counted() {
        let warnings = (0..23).map(|n| format!("warning {n}")).collect();
        let html = html(&StatusReport { warnings, ..empty() });
        assert_eq!(html.matches("<li>").count(), 20);
        assert!(html.contains("and 3 more"));
    }

    #[test]
    fn thousands_of_talkative_integrations_make_a_small_page() {
        let mut row = listed(Health::CannotRefresh, DAY);
        row.seller_name = Some("Cửa hàng ".repeat(100));
        row.error_message = Some("TikTok refused: \"it\" answered <36009999> ".repeat(100));
        let report = StatusReport { warnings: vec!["x&y ".repeat(500); 201], ..report(vec![row; 5_000]) };
        assert!(html(&report).len() < 60_000, "{}", html(&report).len());
    }
}
