//! The accept loop: every connection without delay, bounded in number, time and stalls, and drained at the end.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use daemon::CancellationToken;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::config::Limits;

/// Most header lines of one request.
const HEADERS_MAX: usize = 64;
/// Largest head of one request, bytes; also the read buffer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Above any number of descriptors.
const CONNECTIONS_CEILING: usize = 1 << 20;
/// After the last answer, how long connections may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failing accept, such as one without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` until `stop`; then accepts nothing more, and returns once `drained` and the last connection is closed.
/// Connections of `proxies` are not counted by address.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: &Limits,
    proxies: &[IpAddr],
    stop: CancellationToken,
    drained: impl Future<Output = ()>,
) {
    let connections_max = limits.connections_max.min(CONNECTIONS_CEILING);
    let connections = Arc::new(Semaphore::new(connections_max));
    let per_ip = PerIp { counts: Arc::default(), most: limits.connections_per_ip_max, exempt: proxies.into() };
    let closing = CancellationToken::new();
    let stall = Duration::from_millis(limits.write_stall_timeout_ms);
    let mut http = http1::Builder::new();
    // hyper counts the pause between two requests as part of the next one's head.
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_millis(limits.header_timeout_ms));
    http.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX).half_close(false);

    while let Some((permit, accepted)) = next(&listener, &connections, &stop).await {
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = per_ip.take(peer.ip()) else {
            metrics::counter!("meter_connections_refused_total").increment(1);
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        let connection = http.serve_connection(TokioIo::new(StallGuard::new(socket, stall)), service).with_upgrades();
        let closing = closing.clone();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended early");
            }
            drop((permit, place));
        });
    }

    drop(listener);
    drained.await;
    closing.cancel();
    if tokio::time::timeout(CLOSE_TIMEOUT, connections.acquire_many(connections_max as u32)).await.is_err() {
        tracing::debug!("connections were still open at the end");
    }
}

/// The next connection with its place, waiting for one to be free; `None` when it is time to stop. It sends small chunks at once:
/// otherwise each would wait for the peer's delayed acknowledgement, 40 ms.
async fn next(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(OwnedSemaphorePermit, io::Result<(TcpStream, SocketAddr)>)> {
    let accepted = async {
        let permit = Arc::clone(connections).acquire_owned().await.ok()?;
        let accepted = listener.accept().await;
        if let Ok((socket, _)) = &accepted
            && let Err(error) = socket.set_nodelay(true)
        {
            tracing::debug!(%error, "connection went away at once");
        }
        Some((permit, accepted))
    };
    tokio::select! {
        () = stop.cancelled() => None,
        accepted = accepted => accepted,
    }
}

/// Connections of each address; IPv6 counts by /64, which one household has.
#[derive(Clone)]
struct PerIp {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
    exempt: Arc<[IpAddr]>,
}

/// A counted connection; given back when dropped.
struct IpPlace(Option<(PerIp, IpAddr)>);

impl PerIp {
    /// `None` when the address has as many as it may.
    fn take(&self, peer: IpAddr) -> Option<IpPlace> {
        let peer = peer.to_canonical();
        if self.exempt.contains(&peer) {
            return Some(IpPlace(None));
        }
        let ip = match peer {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            IpAddr::V4(_) => peer,
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(IpPlace(Some((self.clone(), ip))))
    }
}

impl Drop for IpPlace {
    fn drop(&mut self) {
        let Some((per_ip, ip)) = &self.0 else { return };
        let mut counts = per_ip.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(ip);
            }
        }
    }
}

/// A socket that gives up when its peer takes nothing for too long.
struct StallGuard {
    socket: TcpStream,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl StallGuard {
    fn new(socket: TcpStream, limit: Duration) -> Self {
        Self { socket, limit, stalled: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        if stalled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")));
        }
        Poll::Pending
    }
}

impl AsyncRead for StallGuard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for StallGuard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_chunks_are_sent_at_once() {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_, accepted) = next(&listener, &Arc::new(Semaphore::new(1)), &CancellationToken::new()).await.unwrap();
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn one_household_counts_together_and_a_proxy_not_at_all() {
        let proxy = IpAddr::from([10, 0, 0, 2]);
        let per_ip = PerIp { counts: Arc::default(), most: 1, exempt: [proxy].into() };
        let (first, neighbour, other) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap(), "2001:db8:0:1::1".parse().unwrap());
        let place = per_ip.take(first).unwrap();
        assert!(per_ip.take(neighbour).is_none());
        let _other = per_ip.take(other).unwrap();
        drop(place);
        assert!(per_ip.take(neighbour).is_some());
        let _many: Vec<IpPlace> = (0..9).map(|_| per_ip.take(proxy).unwrap()).collect();
    }
}
