//! The stand-in's consent page, where a seller authorizes the app or declines, and is sent back to the app.

use super::tiktok::TikTokStandIn;
use axum::{
    http::StatusCode,
    response::{Html, IntoResponse, Redirect, Response},
};
use maud::{DOCTYPE, PreEscaped, html};
use std::collections::HashMap;
use url::Url;

/// The path of the consent page, as on TikTok's host.
pub const PATH: &str = "/open/authorize";
/// Where the page sends the seller's choice. Not a path of TikTok Shop's.
pub(super) const ANSWER_PATH: &str = "/local/authorize";
/// A seller that no sample integration belongs to.
const NEW_SELLER: &str = "seller-new";
const NEW_SELLER_NAME: &str = "Phở Mới";

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;padding:24px;font:16px/1.5 system-ui,sans-serif}\
form{max-width:420px;margin:0 auto}\
label{display:block;padding:6px 0}\
button{margin:14px 10px 0 0;padding:10px 18px;font:inherit}";

/// The app as Partner Center knows it.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The number in the link.
    pub service_id: String,
    /// The app key.
    pub app_key: String,
    /// Where sellers are sent back to.
    pub redirect_url: Url,
}

/// The page that a link leads to.
pub(super) fn page(tiktok: &TikTokStandIn, query: &HashMap<String, String>) -> Response {
    let Some(registration) = tiktok.registration() else { return super::tiktok::answers::not_found() };
    if query.get("service_id") != Some(&registration.service_id) {
        return (StatusCode::NOT_FOUND, "this service does not exist").into_response();
    }
    let mut sellers = tiktok.sellers();
    sellers.retain(|(open_id, _)| open_id != NEW_SELLER);
    sellers.push((NEW_SELLER.into(), NEW_SELLER_NAME.into()));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "TikTok Shop, a stand-in" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                form action=(ANSWER_PATH) {
                    h1 { "Authorize " (registration.app_key) "?" }
                    p { "This page stands in for TikTok Shop's. Choose whose account is logged in." }
                    @if let Some(state) = query.get("state") { input type="hidden" name="state" value=(state); }
                    @for (open_id, name) in &sellers {
                        label {
                            input type="radio" name="seller" value=(open_id) checked[open_id == NEW_SELLER];
                            " " (name) " (" (open_id) ")"
                        }
                    }
                    button name="answer" value="authorize" { "Authorize" }
                    button name="answer" value="decline" { "Decline" }
                }
            }
        }
    };
    Html(page.into_string()).into_response()
}

/// Sends the seller back to the app, with an auth code or without.
pub(super) fn answer(tiktok: &TikTokStandIn, query: &HashMap<String, String>) -> Response {
    let Some(Registration { app_key, redirect_url: mut url, .. }) = tiktok.registration() else {
        return super::tiktok::answers::not_found();
    };
    let seller =
        query.get("seller").filter(|_| query.get("answer").is_some_and(|answer| answer == "authorize"));
    let mut pairs = url.query_pairs_mut();
    if let Some(open_id) = seller {
        let mut sellers = tiktok.sellers().into_iter();
        let name = sellers.find_map(|(known, name)| (known == *open_id).then_some(name));
        let name = name.unwrap_or_else(|| NEW_SELLER_NAME.into());
        pairs.append_pair("app_key", &app_key).append_pair("code", &tiktok.auth_code(open_id, &name));
        pairs.append_pair("locale", "en").append_pair("shop_region", "VN");
    }
    if let Some(state) = query.get("state") {
        pairs.append_pair("state", state);
    }
    drop(pairs);
    Redirect::to(url.as_str()).into_response()
}
