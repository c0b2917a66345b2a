//! What a warm environment keeps from one invocation to the next.

use crate::{
    aws::{dynamodb::Store, eventbridge::EventBus, secrets_manager::Credentials, sqs::Queue},
    domain::{clock::Clock, integration::Rule, secret::Apps},
    refresh::{Pace, Refresher, RetryBudget},
    settings::Settings,
    tiktok::{RateLimiter, TikTok},
};
use chrono::{DateTime, Utc};
use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
};

/// Where the lines for CloudWatch's metrics go: standard output, or a test's ear.
pub type Emit = Arc<dyn Fn(&str) + Send + Sync>;

/// What a warm environment keeps from one invocation to the next.
pub struct Services {
    /// The settings.
    pub settings: Settings,
    /// The table.
    pub store: Store,
    /// The provider.
    pub tiktok: TikTok,
    /// The app credentials.
    pub credentials: Arc<Credentials>,
    /// The function's own queue, if it has one.
    pub queue: Option<Queue>,
    /// The user's event bus, if there is one.
    pub bus: Option<EventBus>,
    /// Toward TikTok, by app.
    pub limiter: Arc<RateLimiter>,
    /// The time.
    pub clock: Clock,
    /// How long a refresh waits for what.
    pub pace: Pace,
    /// Where metrics go.
    pub emit: Emit,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Services {
    /// What the refreshes of one run share.
    pub fn refresher(
        &self,
        run_id: &str,
        apps: Arc<Apps>,
        deadline: DateTime<Utc>,
        rule: &Rule,
    ) -> Refresher {
        Refresher {
            run_id: run_id.to_owned(),
            store: self.store.clone(),
            tiktok: self.tiktok.clone(),
            credentials: self.credentials.clone(),
            apps: RwLock::new(apps),
            limiter: self.limiter.clone(),
            clock: self.clock.clone(),
            deadline,
            refresh_ahead: rule.refresh_ahead,
            force: rule.force,
            unless_refreshed_since: rule.unless_refreshed_since,
            pace: self.pace,
            budget: RetryBudget::default(),
            latency: Mutex::default(),
            attempts: AtomicU64::new(0),
            cut_off: AtomicU64::new(0),
            others_tried: tokio::sync::Mutex::new(HashSet::new()),
            queue: self.queue.clone(),
            bus: self.bus.clone(),
            unpublished: AtomicU64::new(0),
        }
    }
}
