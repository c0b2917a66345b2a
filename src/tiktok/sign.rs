//! TikTok Shop's request signature: an HMAC-SHA256 in lower-case hex, keyed with the app secret.
//! <https://partner.tiktokshop.com/docv2/page/sign-your-api-request>

use crate::domain::secret::AppSecret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Signs a request. The signed text consists of the secret, the path, the query pairs sorted by key, the exact body, and the
/// secret again. The pairs `sign` and `access_token` are left out.
pub fn sign(secret: &AppSecret, path: &str, query: &[(&str, &str)], body: &[u8]) -> String {
    let mut pairs: Vec<_> =
        query.iter().filter(|(key, _)| !matches!(*key, "sign" | "access_token")).collect();
    pairs.sort_unstable();
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("any length is a key");
    mac.update(secret.expose().as_bytes());
    mac.update(path.as_bytes());
    for (key, value) in pairs {
        mac.update(key.as_bytes());
        mac.update(value.as_bytes());
    }
    mac.update(body);
    mac.update(secret.expose().as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> AppSecret {
        "e59af819cc".to_owned().into()
    }

    #[test]
    fn signatures_match_the_published_examples() {
        assert_eq!(
            sign(
                &secret(),
                "/authorization/202309/shops",
                &[("app_key", "29a39d"), ("timestamp", "1623812664")],
                b""
            ),
            "b596b73e0cc6de07ac26f036364178ab16b0a907af13d43f0a0cd2345f582dc8"
        );
        assert_eq!(
            sign(
                &secret(),
                "/event/202309/webhooks",
                &[
                    ("timestamp", "1696909648"),
                    ("shop_cipher", "ROW_xkMbgAAAeVAQra0eZWebFQq5aIK"),
                    ("app_key", "68xu9ks5p4i8")
                ],
                b""
            ),
            "ed58e1b5e59865c22a7b828c1cab65007441f43cc91a6cb2f2cdc638e0995a37"
        );
    }

    #[test]
    fn the_body_is_signed_but_not_the_signature_or_the_token() {
        let pairs = [("app_key", "29a39d")];
        let more = [("app_key", "29a39d"), ("sign", "x"), ("access_token", "y")];
        assert_eq!(sign(&secret(), "/a", &pairs, b""), sign(&secret(), "/a", &more, b""));
        assert_ne!(sign(&secret(), "/a", &pairs, b""), sign(&secret(), "/a", &pairs, b"{}"));
    }
}
