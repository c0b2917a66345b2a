//! An empty DynamoDB and a TikTok Shop with some sellers, for the packaged function: prints where they are and what the
//! sellers granted as one line of JSON, and serves until it is killed.

use serde_json::json;
use std::error::Error;
use tiktok_token_refresh::{
    domain::{clock::Clock, secret::AppCredentials},
    local::{dynamodb, tiktok::TikTokStandIn},
};
use tokio::net::TcpListener;

const SELLERS: usize = 10;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "its one line is what it is for")]
async fn main() -> Result<(), Box<dyn Error>> {
    let secret = "a-secret-of-the-stand-in";
    let app = AppCredentials { app_key: "app".into(), app_secret: secret.to_owned().into(), service: None };
    let tiktok = TikTokStandIn::new(vec![app], Clock::system());
    tiktok.single_use();
    let sellers: Vec<_> = (0..SELLERS)
        .map(|n| {
            let open_id = format!("seller-{n}");
            let pair = tiktok.authorize(&open_id, "Seller");
            json!({
                "open_id": open_id, "access_token": pair.access_token, "refresh_token": pair.refresh_token,
            })
        })
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "{}",
        json!({
            "dynamodb": format!("http://{}", dynamodb::serve(None).await?),
            "tiktok": format!("http://{}", listener.local_addr()?),
            "app": { "app_key": "app", "app_secret": secret },
            "sellers": sellers,
        })
    );
    tiktok.serve(listener).await?;
    Ok(())
}
