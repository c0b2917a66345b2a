//! The seller's way back: a signed link, TikTok's consent page, and one page of ours.

use super::support::{Behaviour, Fault, NIGHT, Step, World, days, hours, logs, minutes, world};
use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::sync::Arc;
use tiktok_token_refresh::{
    domain::{
        connect_link::{LinkTarget, sign},
        integration::{IntegrationKey, UnixTime},
        secret::AuthCode,
    },
    handler::Function,
};
use url::Url;
use world::{APP_KEY, APP_SECRET, Shop};

const SERVICE_ID: &str = "7431862345987123456";

fn secret(app_secret: &str) -> String {
    json!({"app_key": APP_KEY, "app_secret": app_secret, "service_id": SERVICE_ID}).to_string()
}

/// A world whose secret has a service, and its public function.
struct Open {
    world: World,
    public: Arc<Function>,
}

/// What a browser gets.
struct Got {
    status: u64,
    headers: Value,
    body: String,
}

impl Got {
    /// The status and all the text.
    fn told(&self) -> String {
        let text = self.body.split("<p>").nth(1).unwrap().split("</p>").next().unwrap();
        format!("{} {}\n    {text}\n", self.status, self.seen().1)
    }

    /// The status and the heading.
    fn seen(&self) -> (u64, &str) {
        let heading = self.body.split("<h1>").nth(1).unwrap().split("</h1>").next().unwrap();
        (self.status, heading)
    }
}

impl Open {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&'static str, &str)]) -> Self {
        let world = World::with(settings).await;
        world.aws.set_secret(Some(&secret(APP_SECRET)));
        let public = world.function_with_setting("PUBLIC_ENDPOINT", "true").await;
        Self { world, public }
    }

    /// The state of a new link.
    async fn state(&self, shop: &Shop) -> String {
        let event =
            json!({"action": "connect_link", "team_id": shop.team_id, "integration_id": shop.integration_id});
        state_of(&self.world.refresh(event).await)
    }

    async fn request(&self, method: &str, path: &str, query: &str, language: &str) -> Got {
        let event = json!({
            "version": "2.0", "rawPath": path, "rawQueryString": query, "headers": {"accept-language": language},
            "requestContext": {"http": {"method": method}},
        });
        let answer = world::invoke(&self.public, &event, self.world.deadline()).await.unwrap();
        Got {
            status: answer["statusCode"].as_u64().unwrap(),
            headers: answer["headers"].clone(),
            body: answer["body"].as_str().unwrap().to_owned(),
        }
    }

    async fn get(&self, query: &str) -> Got {
        self.request("GET", "/connect", query, "en").await
    }

    /// What the browser gets when TikTok sends it back with a code.
    async fn back(&self, code: &str, state: &str) -> Got {
        self.get(&format!("app_key={APP_KEY}&code={code}&locale=en&shop_region=VN&state={state}")).await
    }
}

fn state_of(answer: &Value) -> String {
    let url = Url::parse(answer["url"].as_str().unwrap()).unwrap();
    url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned()
}

fn signed(shop: &Shop, app_key: &str, app_secret: &str, life: TimeDelta) -> String {
    let key = IntegrationKey { team_id: shop.team_id.clone(), integration_id: shop.integration_id.clone() };
    let expires_at = UnixTime(NIGHT + life.num_seconds());
    sign(&LinkTarget { key, app_key: app_key.into(), expires_at }, &app_secret.to_owned().into(), "n")
        .unwrap()
}

// Making a link

#[tokio::test]
async fn a_link_leads_to_tiktoks_page_and_names_its_integration_app_and_end() {
    let open = Open::new().await;
    let event = json!({"action": "connect_link", "team_id": 1, "integration_id": "7", "valid_for": "1h"});
    let answer = open.world.refresh(event.clone()).await;
    assert_eq!((&answer["action"], &answer["expires_at"]), (&json!("connect_link"), &json!(NIGHT + 3600)));
    let url = answer["url"].as_str().unwrap();
    let page = format!("https://services.tiktokshop.com/open/authorize?service_id={SERVICE_ID}&state=");
    assert!(url.starts_with(&page), "{url}");
    let state = state_of(&answer);
    let payload = URL_SAFE_NO_PAD.decode(state.split_once('.').unwrap().0).unwrap();
    let mut payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["nonce"].take().as_str().unwrap().len(), 32);
    assert_eq!(
        payload,
        json!({"v": 1, "team": "1", "integration": "7", "app": APP_KEY, "expires": NIGHT + 3600, "nonce": null})
    );
    assert_ne!(state, state_of(&open.world.refresh(event.clone()).await), "no two links are the same");
    let us = open
        .world
        .refresh(json!({"action": "connect_link", "team_id": 1, "integration_id": "7", "market": "us"}));
    let us = us.await;
    assert!(us["url"].as_str().unwrap().starts_with("https://services.us.tiktokshop.com/open/authorize?"));
    assert_eq!(us["expires_at"], NIGHT + 7 * 24 * 3600, "a week, unless the request says otherwise");
    assert_eq!((open.world.aws.writes(), open.world.tiktok.all_calls()), (0, 0));
    assert!(!logs::text().contains(&state), "a link is a secret");
}

#[tokio::test]
async fn a_row_stays_with_its_app() {
    let open = Open::new().await;
    let apps = json!({"apps": [
        {"app_key": "first", "app_secret": "app-secret-1", "service_id": 71, "market": "us"},
        {"app_key": "second", "app_secret": "app-secret-2", "service_id": "72"},
        {"app_key": "third", "app_secret": "app-secret-3"},
    ]});
    open.world.aws.set_secret(Some(&apps.to_string()));
    let of = async |id: &str, app: Value| {
        let event = json!({"action": "connect_link", "team_id": open.world.team, "integration_id": id, "app_key": app});
        open.world.invoke(&event).await.map(|answer| answer["url"].as_str().unwrap().to_owned())
    };
    open.world.integration().id("of-second").text("app_key", "second").insert().await;
    open.world.integration().id("of-nobody").text("app_key", "nobody").insert().await;
    assert!(
        of("new", json!(null))
            .await
            .unwrap()
            .contains("services.us.tiktokshop.com/open/authorize?service_id=71&")
    );
    assert!(
        of("new", json!("second"))
            .await
            .unwrap()
            .contains("services.tiktokshop.com/open/authorize?service_id=72&")
    );
    assert!(of("of-second", json!(null)).await.unwrap().contains("service_id=72&"));
    assert!(of("of-second", json!("second")).await.unwrap().contains("service_id=72&"));
    for (id, app, kind, said) in [
        (
            "of-second",
            json!("first"),
            "BadEvent",
            "app_key: got \"first\", but the seller of this integration authorized",
        ),
        ("new", json!("fourth"), "BadEvent", "app_key: the secret has no app \"fourth\""),
        ("of-nobody", json!(null), "BadEvent", "app_key: the secret has no app \"nobody\""),
        ("new", json!("third"), "NoServiceId", "the secret has no service_id for the app \"third\""),
    ] {
        let error = of(id, app).await.unwrap_err();
        assert_eq!(error.error_type(), kind, "{error}");
        assert!(error.to_string().starts_with(said), "{error}");
    }
}

#[tokio::test]
async fn a_service_id_that_was_just_added_is_found() {
    let world = World::new().await;
    world.refresh_all().await;
    world.aws.set_secret(Some(&secret(APP_SECRET)));
    world.refresh(json!({"action": "connect_link", "team_id": 1, "integration_id": 7})).await;
}

#[tokio::test]
async fn a_service_id_that_cannot_be_read_costs_no_refresh() {
    let world = World::new().await;
    world.integration().expiring_in(hours(1)).insert().await;
    let typo = json!({"app_key": APP_KEY, "app_secret": APP_SECRET, "service_id": "app-7"});
    world.aws.set_secret(Some(&typo.to_string()));
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 1);
}

// `connect` with a state, for platforms with a callback of their own

#[tokio::test]
async fn a_state_stands_in_for_the_ids() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let state = open.state(&shop).await;
    let event = |more: &Value| {
        let code = open.world.tiktok.auth_code("o-1", "S");
        let mut event = json!({"action": "connect", "state": state, "auth_code": code});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let answer = open.world.refresh(event(&json!({}))).await;
    assert_eq!(
        (&answer["outcome"], &answer["team_id"], &answer["integration_id"]),
        (&json!("connected"), &json!("1"), &json!("7"))
    );
    assert_eq!(open.world.text(&shop, "app_key").await.as_deref(), Some(APP_KEY));
    // The same ids again are no contradiction, and the link works again.
    let same = event(&json!({"team_id": 1, "integration_id": "7", "app_key": APP_KEY}));
    assert_eq!(open.world.refresh(same).await["outcome"], "reconnected");
}

#[tokio::test]
async fn a_state_that_does_not_fit_is_refused_before_the_code_is_used() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let code = open.world.tiktok.auth_code("o-1", "S");
    let state = open.state(&shop).await;
    for (state, more, said) in [
        (state.clone(), json!({"team_id": 2}), "bad event: team_id: got \"2\", expected the state's value"),
        (state.clone(), json!({"team_id": 1, "integration_id": 8}), "bad event: integration_id: got \"8\""),
        (state.clone(), json!({"app_key": "other"}), "bad event: app_key: got \"other\""),
        (signed(&shop, APP_KEY, "stolen", days(1)), json!({}), "bad event: state: the signature is wrong"),
        (signed(&shop, "other", APP_SECRET, days(1)), json!({}), "bad event: state: the signature is wrong"),
        (signed(&shop, APP_KEY, APP_SECRET, days(0)), json!({}), "bad event: state: the link has expired"),
    ] {
        let mut event = json!({"action": "connect", "state": state, "auth_code": code});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = open.world.invoke(&event).await.unwrap_err();
        assert!(error.to_string().starts_with(said), "{error}");
        assert_eq!(error.error_type(), "BadEvent");
    }
    assert!(open.world.everything().await.is_empty());
    let event = json!({"action": "connect", "state": state, "auth_code": code});
    assert_eq!(open.world.refresh(event).await["outcome"], "connected", "the code is still good");
}

// The public endpoint

#[tokio::test]
async fn a_seller_connects_a_new_integration_and_reloads_the_page() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let (state, code) = (open.state(&shop).await, open.world.tiktok.auth_code("o-1", "Bánh Mì 25"));
    assert_eq!(open.back(&code, &state).await.seen(), (200, "Bánh Mì 25 is connected"));
    assert_eq!(open.world.stored_pair(&shop).await, open.world.granted_pair(&shop));
    let before = open.world.everything().await;
    // TikTok, which would refuse the app by now, is not asked.
    open.world.tiktok.set_apps(vec![]);
    assert_eq!(open.back(&code, &state).await.seen(), (200, "Your shop is connected"));
    assert_eq!(open.world.everything().await, before);
}

#[tokio::test]
async fn a_seller_whose_integration_was_marked_comes_back() {
    let open = Open::with(&[("EVENT_BUS_NAME", "platform")]).await;
    let shop = open.world.integration().status("error").text("error_reason", "reauthorize").insert().await;
    let (state, code) = (open.state(&shop).await, open.world.tiktok.auth_code(&shop.open_id, "S"));
    assert_eq!(open.back(&code, &state).await.status, 200);
    assert_eq!(open.world.text(&shop, "status").await.as_deref(), Some("active"));
    assert_eq!(open.world.aws.published()[0].0, "TikTok Shop Integration Recovered");
}

#[tokio::test]
async fn a_browser_that_sends_the_code_twice_at_once_sees_the_good_page_twice() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let (state, code) = (open.state(&shop).await, open.world.tiktok.auth_code("o-1", "S"));
    let (one, other) = tokio::join!(open.back(&code, &state), open.back(&code, &state));
    assert_eq!((one.status, other.status), (200, 200));
    assert_eq!(open.world.stored_pair(&shop).await, open.world.granted_pair(&shop));
}

#[tokio::test]
async fn a_seller_who_declines_changes_nothing() {
    let open = Open::new().await;
    let shop = open.world.integration().insert().await;
    let (state, before) = (open.state(&shop).await, open.world.everything().await);
    for query in [
        format!("state={state}"),
        format!("code=&state={state}"),
        format!("error=access_denied&state={state}"),
    ] {
        assert_eq!(open.get(&query).await.seen(), (200, "Not connected"));
    }
    assert_eq!(open.get("state=x").await.status, 400, "only the holder of a link is told");
    assert_eq!(open.world.everything().await, before);
}

#[tokio::test]
async fn nothing_is_exchanged_read_or_written_for_a_bad_state() {
    let open = Open::new().await;
    let shop = open.world.integration().insert().await;
    let (good, before) = (open.state(&shop).await, open.world.everything().await);
    let reads = open.world.aws.count(Step::Read);
    let code = open.world.tiktok.auth_code(&shop.open_id, "S");
    let stranger = world::shop("2", "7", "o");
    let swapped = {
        let payload = signed(&stranger, APP_KEY, "x", days(1));
        format!("{}.{}", payload.split_once('.').unwrap().0, good.split_once('.').unwrap().1)
    };
    for state in [
        String::new(),
        "x".into(),
        swapped,
        good[..good.len() - 1].to_owned(),
        signed(&shop, APP_KEY, "guessed", days(1)),
        signed(&shop, "another-app", APP_SECRET, days(1)),
    ] {
        assert_eq!(open.back(&code, &state).await.seen(), (400, "This link does not work"), "{state}");
    }
    let expired = signed(&shop, APP_KEY, APP_SECRET, minutes(-1));
    assert_eq!(open.back(&code, &expired).await.seen(), (400, "This link has expired"));
    for query in [
        format!("code={code}"),
        format!("code={code}&code={code}&state={good}"),
        format!("code={code}&state={good}&state={good}"),
        format!("code={code}&app_key=another&state={good}"),
    ] {
        assert_eq!(open.get(&query).await.seen(), (400, "This link does not work"), "{query}");
    }
    assert_eq!(open.world.aws.count(Step::Read), reads);
    assert_eq!(open.world.everything().await, before);
    assert_eq!(open.back(&code, &good).await.status, 200, "the code is still good");
}

#[tokio::test]
async fn a_code_that_tiktok_refuses_is_no_reason_to_change_the_row() {
    let open = Open::new().await;
    let shop = open.world.integration().insert().await;
    let (state, before) = (open.state(&shop).await, open.world.everything().await);
    assert_eq!(open.back("TTC_unknown", &state).await.seen(), (400, "Please try again"));
    assert_eq!(open.world.everything().await, before);
}

#[tokio::test]
async fn a_forwarded_link_cannot_attach_another_shop_to_a_row() {
    let open = Open::new().await;
    let shop = open.world.integration().insert().await;
    let (state, before) = (open.state(&shop).await, open.world.everything().await);
    let code = open.world.tiktok.auth_code("a-stranger", "Stranger");
    let got = open.back(&code, &state).await;
    assert_eq!(got.seen(), (409, "This is another shop"));
    assert_eq!(open.world.everything().await, before);
    for name in
        [shop.team_id.as_str(), &shop.integration_id, &shop.open_id, "Bánh Mì", "stranger", "Stranger"]
    {
        assert!(!got.body.contains(name), "{name}");
    }
}

#[tokio::test]
async fn an_unclear_answer_of_tiktoks_is_502_and_an_unreachable_table_or_secret_503() {
    let open = Open::with(&[world::IMPATIENT]).await;
    let shop = open.world.integration().insert().await;
    let state = open.state(&shop).await;
    let code = || open.world.tiktok.auth_code(&shop.open_id, "S");
    // The first answer is unreadable, and by the second call the code is used up.
    let garbled = Behaviour::With(json!({"access_token": null}));
    let garbled = open.world.tiktok.auth_code_with(&shop.open_id, "S", garbled);
    assert_eq!(open.back(&garbled, &state).await.seen(), (400, "Please try again"));
    open.world.tiktok.set_apps(vec![world::app(APP_KEY, "app-secret-other")]);
    assert_eq!(open.back(&code(), &state).await.seen(), (502, "TikTok Shop did not answer"));
    open.world.tiktok.set_apps(vec![world::app(APP_KEY, APP_SECRET)]);
    open.world.aws.fault(Step::Read, 1, Fault::Refuse(400, "AccessDeniedException"));
    assert_eq!(open.back(&code(), &state).await.seen(), (503, "Something went wrong"));
    open.world.pass(hours(1));
    open.world.aws.fault(Step::Secret, 3, Fault::Refuse(400, "AccessDeniedException"));
    assert_eq!(open.back(&code(), &state).await.status, 503);

    let nobody = Open::with(&[("TIKTOK_AUTH_URL", "http://127.0.0.1:1")]).await;
    let state = nobody.state(&shop).await;
    assert_eq!(nobody.back("TTC_any", &state).await.seen(), (502, "TikTok Shop did not answer"));
}

#[tokio::test]
async fn other_paths_and_methods_get_a_page_too() {
    let open = Open::new().await;
    for path in ["/", "/connect/", "/Connect", "/favicon.ico", "//connect"] {
        assert_eq!(open.request("GET", path, "", "en").await.seen(), (404, "There is nothing here"));
    }
    let got = open.request("POST", "/connect", "", "en").await;
    assert_eq!((got.status, &got.headers["allow"]), (405, &json!("GET")));
    assert_eq!(open.world.aws.requests(), 0);
}

#[tokio::test]
async fn every_page_has_the_headers_that_keep_it_to_itself() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let (state, code) =
        (open.state(&shop).await, open.world.tiktok.auth_code("o-1", "<script>alert(1)</script>"));
    let pages = [
        open.back(&code, &state).await,
        open.get(&format!("state={state}")).await,
        open.get("").await,
        open.request("GET", "/", "", "vi").await,
        open.request("DELETE", "/connect", "", "").await,
    ];
    for got in pages {
        assert_eq!(got.headers["cache-control"], "no-store");
        assert_eq!(got.headers["referrer-policy"], "no-referrer");
        assert_eq!(got.headers["x-content-type-options"], "nosniff");
        assert_eq!(got.headers["content-type"], "text/html; charset=utf-8");
        let policy = got.headers["content-security-policy"].as_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
        for word in ["<script", "href", "src=", "http", "url("] {
            assert!(!got.body.contains(word), "{word}");
        }
        assert!(!got.body.contains(&state) && !got.body.contains(&code));
    }
}

#[tokio::test]
async fn the_page_speaks_vietnamese_to_a_vietnamese_browser() {
    let open = Open::new().await;
    let got = open.request("GET", "/connect", "", "vi-VN,vi;q=0.9,en;q=0.8").await;
    assert_eq!(got.seen(), (400, "Liên kết này không dùng được"));
    assert!(got.body.contains("<html lang=\"vi\">") && got.headers["content-language"] == "vi");
}

#[tokio::test]
async fn each_function_refuses_what_is_the_others() {
    let open = Open::new().await;
    open.world.integration().expiring_in(hours(1)).insert().await;
    for event in [
        json!({}),
        json!({"action": "refresh"}),
        json!({"action": "status"}),
        json!({"action": "connect", "team_id": 1, "integration_id": 7, "auth_code": "c", "replace": true}),
        json!({"action": "connect_link", "team_id": 1, "integration_id": 7}),
        json!({"Records": []}),
    ] {
        let error = world::invoke(&open.public, &event, open.world.deadline()).await.unwrap_err();
        assert_eq!(error.error_type(), "BadEvent", "{event}");
    }
    let http =
        json!({"version": "2.0", "rawPath": "/connect", "requestContext": {"http": {"method": "GET"}}});
    let error = open.world.invoke(&http).await.unwrap_err();
    assert!(error.to_string().contains("only the public function"), "{error}");
    assert_eq!(open.world.aws.requests(), 0);
    let ensure = json!({"action": "ensure", "team_id": 1, "integration_id": 7}).to_string();
    let arn = "arn:aws:lambda:us-east-1:123456789012:function:public:ensure";
    let refused = open.public.handle_invoked(&ensure, arn, open.world.deadline()).await;
    assert_eq!(refused.unwrap_err().error_type(), "BadEvent", "an alias changes nothing");
}

#[tokio::test]
async fn what_sellers_read() {
    let open = Open::new().await;
    let (new, taken) = (world::shop("1", "7", "o-1"), open.world.integration().insert().await);
    let (state, taken) = (open.state(&new).await, open.state(&taken).await);
    let back = |code: &str, state: &str| format!("code={code}&state={state}");
    let mut told = String::new();
    for language in ["en", "vi"] {
        let code = open.world.tiktok.auth_code("o-1", "Bánh Mì <b>25</b>");
        let expired = signed(&new, APP_KEY, APP_SECRET, minutes(-1));
        let stranger = open.world.tiktok.auth_code("a-stranger", "S");
        for query in [
            back(&code, &state),
            back(&code, &state),
            format!("state={state}"),
            "state=x".into(),
            back(&code, &expired),
            back("TTC_unknown", &state),
            back(&stranger, &taken),
        ] {
            told += &open.request("GET", "/connect", &query, language).await.told();
        }
        open.world.tiktok.set_apps(vec![]);
        told += &open.request("GET", "/connect", &back("TTC_any", &state), language).await.told();
        open.world.tiktok.set_apps(vec![world::app(APP_KEY, APP_SECRET)]);
        open.world.aws.fault(Step::Read, 1, Fault::Refuse(400, "AccessDeniedException"));
        told += &open.request("GET", "/connect", &back("TTC_any", &state), language).await.told();
        told += &open.request("GET", "/", "", language).await.told();
        told += &open.request("POST", "/connect", "", language).await.told();
    }
    super::snapshots::hold("public-pages", &told);
    let whole = open.get("").await;
    let headers = serde_json::to_string_pretty(&whole.headers).unwrap();
    super::snapshots::hold(
        "public-page-whole",
        &format!("{headers}\n\n{}", whole.body.replace("><", ">\n<")),
    );
}

// The secret is replaced

#[tokio::test]
async fn a_link_outlives_one_replacement_of_the_secret() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let state = open.state(&shop).await;
    open.world.aws.set_version("AWSPREVIOUS", Some(&secret(APP_SECRET)));
    open.world.aws.set_secret(Some(&secret("app-secret-new")));
    open.world.tiktok.set_apps(vec![world::app(APP_KEY, "app-secret-new")]);
    let code = open.world.tiktok.auth_code("o-1", "S");
    assert_eq!(open.back(&code, &state).await.status, 200);
    // A second one ends it.
    open.world.aws.set_version("AWSPREVIOUS", Some(&secret("app-secret-new")));
    open.world.aws.set_secret(Some(&secret("app-secret-newest")));
    open.world.pass(minutes(6));
    assert_eq!(open.back(&code, &state).await.status, 400);
}

#[tokio::test]
async fn a_link_signed_with_a_secret_that_is_newer_than_the_cached_one_works() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    open.get("state=x").await;
    let old = signed(&shop, APP_KEY, APP_SECRET, days(1));
    assert_eq!(open.get(&format!("state={old}")).await.status, 200);
    open.world.aws.set_secret(Some(&secret("app-secret-new")));
    open.world.pass(minutes(1));
    let new = signed(&shop, APP_KEY, "app-secret-new", days(1));
    assert_eq!(open.get(&format!("state={new}")).await.status, 200);
}

#[tokio::test]
async fn strangers_make_the_function_read_the_secret_at_most_once_in_30_seconds() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let forged = signed(&shop, APP_KEY, "guessed", days(1));
    for _ in 0..20 {
        assert_eq!(open.get(&format!("state={forged}")).await.status, 400);
    }
    assert_eq!(open.world.aws.count(Step::Secret), 2, "the current version and the previous one");
    open.world.pass(TimeDelta::seconds(30));
    for _ in 0..20 {
        open.get(&format!("state={forged}")).await;
    }
    assert_eq!(open.world.aws.count(Step::Secret), 4);
    // And not at all for what is no state.
    open.world.pass(minutes(1));
    open.get("state=x.y").await;
    assert_eq!(open.world.aws.count(Step::Secret), 4);
}

#[tokio::test]
async fn no_other_apps_secret_signs_a_state() {
    let open = Open::new().await;
    let apps = json!({"apps": [
        {"app_key": APP_KEY, "app_secret": APP_SECRET}, {"app_key": "other", "app_secret": "app-secret-2"},
    ]});
    open.world.aws.set_secret(Some(&apps.to_string()));
    let shop = world::shop("1", "7", "o-1");
    for (app, secret, status) in [
        (APP_KEY, APP_SECRET, 200),
        ("other", "app-secret-2", 200),
        (APP_KEY, "app-secret-2", 400),
        ("other", APP_SECRET, 400),
        ("nobody", APP_SECRET, 400),
    ] {
        let state = signed(&shop, app, secret, days(1));
        assert_eq!(open.get(&format!("state={state}")).await.status, status, "{app} {secret}");
    }
}

// Published events

#[tokio::test]
async fn the_platform_gets_the_link_with_the_event_that_asks_for_it() {
    let open = Open::with(&[("EVENT_BUS_NAME", "platform")]).await;
    let shop = open.world.integration().expiring_in(hours(1)).insert().await;
    open.world.integration().refreshable_for(days(6)).insert().await;
    open.world.tiktok.end_access(&shop.open_id);
    open.world.tiktok.next(&shop.open_id, [Behaviour::Code(36_004_005, "gone")]);
    open.world.refresh_all().await;
    let published = open.world.aws.published();
    assert_eq!(published.len(), 2, "{published:?}");
    for (_, detail) in &published {
        let state = state_of(&json!({"url": detail["connect_url"]}));
        assert_eq!(open.get(&format!("state={state}")).await.status, 200);
        assert!(detail["connect_url"].as_str().unwrap().contains(SERVICE_ID));
    }
    let (_, detail) = published.iter().find(|(kind, _)| kind.ends_with("Cannot Refresh")).unwrap();
    let state = state_of(&json!({"url": detail["connect_url"]}));
    let code = open.world.tiktok.auth_code(&shop.open_id, "S");
    open.world.pass(days(29));
    assert_eq!(open.back(&code, &state).await.status, 200);
    let (kind, detail) = open.world.aws.published().pop().unwrap();
    assert!(kind.ends_with("Recovered") && detail.get("connect_url").is_none(), "{detail}");
    open.world.pass(days(1));
    assert_eq!(open.get(&format!("state={state}")).await.seen(), (400, "This link has expired"));
}

// The row keeps what the contract says

#[tokio::test]
async fn the_row_remembers_the_code_that_connected_it() {
    let open = Open::new().await;
    let shop = world::shop("1", "7", "o-1");
    let (state, code) = (open.state(&shop).await, open.world.tiktok.auth_code("o-1", "S"));
    open.back(&code, &state).await;
    let id = AuthCode::from(code).sha256();
    assert_eq!(open.world.row(&shop).await["authorization_id"], AttributeValue::S(id));
}
