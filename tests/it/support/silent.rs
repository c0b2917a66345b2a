//! A TCP proxy whose connections can die without a sign, as a NAT's or a load balancer's do while an environment is frozen.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A TCP proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many connections were opened.
    opened: AtomicUsize,
    /// Connections with a lower number are dead.
    first_alive: AtomicUsize,
    /// How many dead connections were written to.
    tried: AtomicUsize,
}

impl Proxy {
    /// Passes connections on to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = proxy.state.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = state.opened.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(target).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(state.clone().pass_on(number, from_client, to_server, true));
                tokio::spawn(state.clone().pass_on(number, from_server, to_client, false));
            }
        });
        proxy
    }

    /// Every open connection dies: it stays established, and nothing comes back any more.
    pub fn fall_silent(&self) {
        self.state.first_alive.store(self.opened(), Ordering::SeqCst);
    }

    /// How many connections were opened.
    pub fn opened(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }

    /// How many dead connections were written to.
    pub fn dead_ones_tried(&self) -> usize {
        self.state.tried.load(Ordering::SeqCst)
    }
}

impl State {
    async fn pass_on(
        self: Arc<Self>,
        number: usize,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        is_request: bool,
    ) {
        let (mut buffer, mut was_tried) = (vec![0; 64 * 1024], false);
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            if number < self.first_alive.load(Ordering::SeqCst) {
                if is_request && !was_tried {
                    was_tried = true;
                    self.tried.fetch_add(1, Ordering::SeqCst);
                }
            } else if to.write_all(&buffer[..len]).await.is_err() {
                break;
            }
        }
        if number < self.first_alive.load(Ordering::SeqCst) {
            // Not even a FIN comes back.
            std::mem::forget(to);
        }
    }
}
