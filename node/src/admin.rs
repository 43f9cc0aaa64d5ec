//! The operator's HTTP listener: /metrics, /healthz, /startedz, /readyz.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use carillon_proto::{Readiness, Ready, accepting::Accepting, metrics::collect, tasks::Tasks};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::Role;

/// Most connections at a time; further ones are closed at once.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// Time limit from the first byte to the end of the request head, and between two requests. Longer than the usual pause
/// between two scrapes.
const REQUEST_IN: Duration = Duration::from_secs(20);
/// Lifetime of a connection, however it is used: no answer takes that long, and the client can connect again.
const CONNECTION_LASTS: Duration = Duration::from_secs(600);

const INDEX: &str = "/metrics: for Prometheus\n/healthz: the process lives\n/startedz: all its roles are open, and have read what is on \
                     their disk\n/readyz: all its roles can work\n";

pub(crate) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

/// The readiness of the roles of this process.
#[derive(Clone)]
pub(crate) struct Health {
    roles: Arc<[(Role, OnceLock<Ready>)]>,
    draining: Arc<AtomicBool>,
}

impl Admin {
    pub(crate) async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until all tasks stop, so it reports the draining, too.
    pub(crate) fn run(self, health: Health, metrics: PrometheusHandle, tasks: &Tasks) {
        let app = Router::new()
            .route("/", get(INDEX))
            .route("/healthz", get("ok\n"))
            .route("/startedz", get(startedz))
            .route("/readyz", get(readyz))
            .with_state(health)
            .route("/metrics", get(async move || scrape(&metrics)));
        let connections = tasks.clone();
        tasks.spawn("admin", async move {
            let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            let mut accepting = Accepting::new(self.listener, "admin listener");
            loop {
                let (stream, _) = accepting.next().await;
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let app = app.clone();
                connections.spawn("admin-connection", async move {
                    // Nobody needs the result of a connection that lasts too long or breaks.
                    let _ = timeout(CONNECTION_LASTS, serve(stream, app)).await;
                    drop(place);
                });
            }
        });
    }
}

async fn serve(stream: TcpStream, app: Router) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_IN);
    // Errors come from the client, or from its silence.
    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).await;
}

impl Health {
    /// The health of a process whose roles are not open yet.
    pub(crate) fn new(roles: &[Role]) -> Self {
        Self { roles: roles.iter().map(|role| (*role, OnceLock::new())).collect(), draining: Arc::default() }
    }

    /// From now on the role reports for itself.
    pub(crate) fn opened(&self, role: Role, ready: Ready) {
        for (_, opened) in self.roles.iter().filter(|(other, _)| *other == role) {
            opened.get_or_init(|| ready.clone());
        }
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The roles of this process, and whether each is ready.
    pub(crate) fn ready_roles(&self) -> impl Iterator<Item = (Role, bool)> {
        self.roles.iter().map(|(role, opened)| (*role, opened.get().is_some_and(|ready| ready.borrow().is_ready())))
    }

    /// The reasons why the process is not ready.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = self.reasons_of_roles();
        if self.draining.load(Ordering::Relaxed) {
            reasons.insert(0, "stopping".to_owned());
        }
        reasons
    }

    /// The roles that are not open yet.
    fn opening(&self) -> Vec<String> {
        self.roles
            .iter()
            .filter(|(_, ready)| ready.get().is_none())
            .map(|(role, _)| format!("{role}: opening"))
            .collect()
    }

    fn reasons_of_roles(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for (role, ready) in &*self.roles {
            match ready.get().map(|ready| ready.borrow()) {
                Some(ready) => reasons.extend(ready.why().map(|why| format!("{role}: {why}"))),
                None => reasons.push(format!("{role}: opening")),
            }
        }
        reasons
    }

    /// Resolves when all roles, which must be open, are ready.
    pub(crate) async fn ready(&self) {
        'again: loop {
            for (_, ready) in &*self.roles {
                let Some(mut ready) = ready.get().cloned() else { return std::future::pending().await };
                // A role that has ended will never be ready.
                if ready.wait_for(Readiness::is_ready).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            // An earlier role may have changed while a later one was awaited.
            if self.reasons_of_roles().is_empty() {
                return;
            }
            continue 'again;
        }
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    answer("ready", &health.reasons())
}

/// 503 while roles are being opened, which takes as long as a log is. Then 200 for ever: what a started process waits for,
/// or that it drains, is told by `readyz` alone.
async fn startedz(State(health): State<Health>) -> (StatusCode, String) {
    answer("started", &health.opening())
}

fn answer(well: &str, reasons: &[String]) -> (StatusCode, String) {
    match reasons {
        [] => (StatusCode::OK, format!("{well}\n")),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

fn scrape(metrics: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], rendered(metrics))
}

/// All metrics of this process, as Prometheus reads them.
pub(crate) fn rendered(metrics: &PrometheusHandle) -> String {
    metrics.render() + &collect().render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    #[tokio::test]
    async fn readyz_tells_the_reasons_until_all_roles_are_ready_and_while_draining() {
        let (router, ready) = watch::channel(Readiness::NotReady("no lease".to_owned()));
        let (_gateway, gateway_ready) = watch::channel(Readiness::Ready);
        let health = Health::new(&[Role::Router, Role::Gateway]);
        health.opened(Role::Gateway, gateway_ready);
        assert_eq!(readyz(State(health.clone())).await.1, "router: opening\n");
        health.opened(Role::Router, ready);
        let (status, body) = readyz(State(health.clone())).await;
        assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "router: no lease\n"));
        router.send_replace(Readiness::Ready);
        health.ready().await;
        assert_eq!(readyz(State(health.clone())).await.0, StatusCode::OK);
        health.set_draining();
        let (status, body) = readyz(State(health)).await;
        assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"));
    }

    #[tokio::test]
    async fn startedz_says_yes_once_all_roles_are_open_whatever_comes_then() {
        let (router, ready) = watch::channel(Readiness::NotReady("no lease".to_owned()));
        let (_gateway, gateway_ready) = watch::channel(Readiness::Ready);
        let health = Health::new(&[Role::Router, Role::Gateway]);
        let (status, body) = startedz(State(health.clone())).await;
        assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "router: opening\ngateway: opening\n"));
        health.opened(Role::Gateway, gateway_ready);
        assert_eq!(startedz(State(health.clone())).await.1, "router: opening\n");
        health.opened(Role::Router, ready);
        let started = (StatusCode::OK, "started\n".to_owned());
        assert_eq!(startedz(State(health.clone())).await, started, "not ready, but open");
        drop(router);
        health.set_draining();
        assert_eq!(startedz(State(health)).await, started, "a probe must not end a process that drains");
    }
}
