//! The pages that sellers see, in English and Vietnamese. The templates escape every value; there is no script, and nothing is
//! loaded. A page names no team and no integration, and only the shop that its visitor has just authorized: whoever gets a
//! forwarded link must not learn from it whom it was made for.

use super::HttpResponse;
use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, PreEscaped, html};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The longest name of a shop that a page shows, in characters.
const MAX_NAME: usize = 80;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#16181d;--soft:#575c66;--paper:#f4f5f7;--card:#fff;--line:#dfe2e7;--good:#0a7d4b;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--ink:#eceef2;--soft:#a9afba;--paper:#101216;--card:#1a1d23;--line:#31353d;--good:#4cc38a;--bad:#ff8a80}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:flex;align-items:center;justify-content:center;padding:20px;background:var(--paper);\
color:var(--ink);font:17px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',Arial,sans-serif}\
main{width:100%;max-width:440px;padding:32px 28px;background:var(--card);border:1px solid var(--line);border-radius:14px;\
border-top:5px solid var(--bad)}\
main.good{border-top-color:var(--good)}\
h1{margin:0 0 10px;font-size:24px;line-height:1.25;overflow-wrap:anywhere}\
p{margin:0;color:var(--soft)}";

/// The languages of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Vietnamese,
}

impl Language {
    /// The language that an `Accept-Language` header prefers; English if it names neither.
    /// <https://www.rfc-editor.org/rfc/rfc9110#field.accept-language>
    pub(super) fn preferred(header: &str) -> Self {
        let weight = |language: &str| {
            let ranges = header.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next()?.split('-').next()?;
                let q = parts.find_map(|part| part.strip_prefix("q=")).unwrap_or("1");
                name.eq_ignore_ascii_case(language).then(|| q.parse().unwrap_or(0.0))
            });
            ranges.fold(0.0_f32, f32::max)
        };
        if weight("vi") > weight("en") { Self::Vietnamese } else { Self::English }
    }

    fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Vietnamese => "vi",
        }
    }
}

/// A page that a seller sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// The shop is connected. The name is known only to the request that exchanged the code.
    Connected { seller_name: Option<String> },
    /// The seller declined on TikTok's page.
    Declined,
    /// The state is missing or invalid.
    BadLink,
    /// The state is valid, but has expired.
    ExpiredLink,
    /// TikTok refused the code.
    CodeRefused,
    /// The row belongs to another seller.
    AnotherShop,
    /// TikTok gave no clear answer.
    Unclear,
    /// The table or the secret cannot be reached.
    Unavailable,
    /// Another path.
    NotFound,
    /// Another method.
    MethodNotAllowed,
}

impl Page {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Connected { .. } | Self::Declined => 200,
            Self::BadLink | Self::ExpiredLink | Self::CodeRefused => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::AnotherShop => 409,
            Self::Unclear => 502,
            Self::Unavailable => 503,
        }
    }

    /// The name in the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Declined => "declined",
            Self::BadLink => "bad_link",
            Self::ExpiredLink => "expired_link",
            Self::CodeRefused => "code_refused",
            Self::AnotherShop => "another_shop",
            Self::Unclear => "unclear",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// The heading and the text below it.
    fn text(&self, language: Language) -> (String, &'static str) {
        use Language::{English, Vietnamese};
        let name = match self {
            Self::Connected { seller_name } => seller_name.as_deref().map(shown).unwrap_or_default(),
            _ => String::new(),
        };
        let (heading, text) = match (self, language) {
            (Self::Connected { .. }, English) if name.is_empty() => {
                ("Your shop is connected", "You can close this page.")
            }
            (Self::Connected { .. }, English) => {
                return (format!("{name} is connected"), "You can close this page.");
            }
            (Self::Connected { .. }, Vietnamese) if name.is_empty() => {
                ("Cửa hàng của bạn đã được kết nối", "Bạn có thể đóng trang này.")
            }
            (Self::Connected { .. }, Vietnamese) => {
                return (format!("{name} đã được kết nối"), "Bạn có thể đóng trang này.");
            }
            (Self::Declined, English) => (
                "Not connected",
                "You did not authorize the app on TikTok Shop, so nothing has changed. If you change your mind, open the link \
                 again.",
            ),
            (Self::Declined, Vietnamese) => (
                "Chưa kết nối",
                "Bạn chưa cấp quyền cho ứng dụng trên TikTok Shop nên không có gì thay đổi. Nếu bạn đổi ý, hãy mở lại liên \
                 kết.",
            ),
            (Self::BadLink, English) => (
                "This link does not work",
                "The link is incomplete or has been changed. Ask the person who sent it for a new one.",
            ),
            (Self::BadLink, Vietnamese) => (
                "Liên kết này không dùng được",
                "Liên kết không đầy đủ hoặc đã bị thay đổi. Hãy xin liên kết mới từ người đã gửi cho bạn.",
            ),
            (Self::ExpiredLink, English) => {
                ("This link has expired", "Ask the person who sent it for a new one.")
            }
            (Self::ExpiredLink, Vietnamese) => {
                ("Liên kết này đã hết hạn", "Hãy xin liên kết mới từ người đã gửi cho bạn.")
            }
            (Self::CodeRefused, English) => (
                "Please try again",
                "TikTok Shop no longer accepts this authorization. It works only once, and only for half an hour. Open the link \
                 again.",
            ),
            (Self::CodeRefused, Vietnamese) => (
                "Vui lòng thử lại",
                "TikTok Shop không còn chấp nhận lần cấp quyền này. Mỗi lần cấp quyền chỉ dùng được một lần, trong vòng nửa \
                 giờ. Hãy mở lại liên kết bạn đã nhận.",
            ),
            (Self::AnotherShop, English) => (
                "This is another shop",
                "The link is for a different shop, so nothing has changed. Open the link again and log in to TikTok Shop as \
                 the owner of that shop, or ask the person who sent the link.",
            ),
            (Self::AnotherShop, Vietnamese) => (
                "Đây là một cửa hàng khác",
                "Liên kết này không dành cho cửa hàng bạn vừa chọn nên không có gì thay đổi. Hãy mở lại liên kết và đăng nhập \
                 TikTok Shop bằng tài khoản chủ của đúng cửa hàng, hoặc hỏi người đã gửi liên kết.",
            ),
            (Self::Unclear, English) => (
                "TikTok Shop did not answer",
                "Your shop may not be connected yet. Open the link again in a few minutes.",
            ),
            (Self::Unclear, Vietnamese) => (
                "TikTok Shop không phản hồi",
                "Có thể cửa hàng của bạn chưa được kết nối. Sau vài phút, hãy mở lại liên kết bạn đã nhận.",
            ),
            (Self::Unavailable, English) => {
                ("Something went wrong", "The problem is on our side. Open the link again in a few minutes.")
            }
            (Self::Unavailable, Vietnamese) => (
                "Hệ thống tạm thời gián đoạn",
                "Lỗi từ phía chúng tôi. Sau vài phút, hãy mở lại liên kết bạn đã nhận.",
            ),
            (Self::NotFound | Self::MethodNotAllowed, English) => {
                ("There is nothing here", "Open the link that you were sent.")
            }
            (Self::NotFound | Self::MethodNotAllowed, Vietnamese) => {
                ("Không tìm thấy trang", "Hãy mở liên kết bạn đã nhận.")
            }
        };
        (heading.into(), text)
    }

    pub(super) fn response(&self, language: Language) -> HttpResponse {
        let (heading, text) = self.text(language);
        let class = if matches!(self, Self::Connected { .. }) { "good" } else { "bad" };
        let body = html! {
            (DOCTYPE)
            html lang=(language.tag()) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    title { (heading) }
                    style { (PreEscaped(STYLE)) }
                }
                body { main class=(class) { h1 { (heading) } p { (text) } } }
            }
        };
        // The hash allows this style sheet and no other, so that an injected one would do nothing.
        let style = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let mut headers = BTreeMap::from([
            ("cache-control", "no-store".into()),
            ("content-language", language.tag().into()),
            ("content-security-policy", policy),
            ("content-type", "text/html; charset=utf-8".into()),
            ("referrer-policy", "no-referrer".into()),
            ("x-content-type-options", "nosniff".into()),
        ]);
        if *self == Self::MethodNotAllowed {
            headers.insert("allow", "GET".into());
        }
        HttpResponse { status_code: self.status(), headers, body: body.into_string() }
    }
}

/// A shop's name for a page: without control and direction characters, which could disguise the text around it, without
/// characters that show nothing, and cut.
fn shown(name: &str) -> String {
    let disguises = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(
                c,
                '\u{ad}' | '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            )
            || matches!(c, '\u{e0000}'..='\u{e0fff}')
    };
    let plain: String = name.chars().filter(|c| !disguises(*c)).collect();
    match plain.trim().char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &plain.trim()[..end]),
        None => plain.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browsers_first_choice_of_the_two_languages_counts() {
        for header in
            ["", "en", "de", "*", "en-US,vi;q=0.9", "vi;q=0", "vi;q=0.5, en;q=0.8", "vietnam", "vi;q=x"]
        {
            assert_eq!(Language::preferred(header), Language::English, "{header}");
        }
        for header in
            ["vi", "VI", "vi-VN,vi;q=0.9,en-US;q=0.6", "fr, vi;q=0.2", "en;q=0.1,vi;q=0.2", "vi ; q=0.5"]
        {
            assert_eq!(Language::preferred(header), Language::Vietnamese, "{header}");
        }
    }

    #[test]
    fn a_shops_name_is_escaped_cut_and_cannot_disguise_the_page() {
        let page = |name: &str| {
            let page = Page::Connected { seller_name: Some(name.into()) };
            page.response(Language::English).body
        };
        let hostile = page("</title><script>alert(1)</script><style>*{display:none}</style>\"'&");
        assert!(!hostile.contains("<script") && hostile.matches("<style").count() == 1, "{hostile}");
        assert!(page("a\u{202e}b\r\nc").contains("<h1>abc is connected</h1>"));
        assert!(page(&"ệ".repeat(500)).contains(&format!("<h1>{}… is connected</h1>", "ệ".repeat(80))));
        for blank in [" \u{200b} ", "\u{feff}", "\u{3164}\u{2800}", "\u{ad}\u{e0041}"] {
            assert!(page(blank).contains("<h1>Your shop is connected</h1>"), "{blank:?}");
        }
    }

    #[test]
    fn nothing_of_a_shops_name_gets_into_a_header() {
        let name = Some("x\r\nset-cookie: a=b".to_owned());
        let [with, without] = [name, None]
            .map(|seller_name| Page::Connected { seller_name }.response(Language::Vietnamese).headers);
        assert_eq!(with, without);
    }
}
