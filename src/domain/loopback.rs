//! Whether a URL leads to this very machine, the only place to which plain HTTP is allowed.

use url::{Host, Url};

/// Whether `url` leads to this very machine, the only place where plain HTTP is let through.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
