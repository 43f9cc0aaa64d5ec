//! Logs to standard error, traces to an OTLP collector.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{Config, LogFormat};

/// Libraries that tell at `info` what only their authors want to know; openraft also warns of each heartbeat of each shard
/// that a stopped node does not take, which storage tells itself, once. A directive in log.level overrides it.
const QUIET: &str = "openraft=error,raft_engine=warn,fjall=warn,lsm_tree=warn,sled=warn,h2=warn,hyper=warn,tower=warn";

/// Installed for the process; [`Telemetry::flush`] at the end.
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("trace.otlp_endpoint: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry is installed already: {0}")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

impl Telemetry {
    /// Within a Tokio runtime. `name` is what the process is, for the name of the service.
    pub fn install(config: &Config, name: &str) -> Result<Self, TelemetryError> {
        let tracer = if config.trace.otlp_endpoint.is_empty() { None } else { Some(provider(config, name)?) };
        let level: EnvFilter = format!("{QUIET},{}", config.log.level).parse()?;
        Registry::default().with(layers(level, config.log.format, tracer.as_ref())).try_init()?;
        Ok(Self { tracer })
    }

    /// Sends what waits, for a short time. Blocks.
    pub fn flush(self) {
        if let Some(tracer) = self.tracer
            && let Err(error) = tracer.shutdown_with_timeout(Duration::from_secs(3))
        {
            tracing::warn!(%error, "not all traces were sent");
        }
    }
}

/// Spans belong to traces alone. Without a tracer nothing wants them, so they are disabled and cost nothing: a list,
/// because an `Option` of a layer wants every span where it is None.
fn layers(level: EnvFilter, format: LogFormat, tracer: Option<&SdkTracerProvider>) -> Vec<BoxedLayer> {
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = match format {
        LogFormat::Text => logs.with_ansi(false).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    let mut layers = vec![logs.with_filter(level.and(filter_fn(is_no_span))).boxed()];
    if let Some(provider) = tracer {
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("carillon"));
        layers.push(traces.with_filter(filter_fn(is_own_span)).boxed());
    }
    layers
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn is_no_span(metadata: &Metadata<'_>) -> bool {
    !metadata.is_span()
}

fn is_own_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("carillon") && *metadata.level() <= Level::INFO
}

fn provider(config: &Config, name: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.trace.otlp_endpoint)
        .with_timeout(Duration::from_secs(5))
        .build()?;
    let service = match config.trace.service_name.as_str() {
        "" => format!("carillon-{name}"),
        service => service.to_owned(),
    };
    // Whoever began a trace has decided for all of it.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace.sample_ratio)));
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tracer_spans_are_disabled_and_events_are_logged() {
        let level: EnvFilter = "info".parse().expect("valid");
        let subscriber = Registry::default().with(layers(level, LogFormat::Text, None));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::info_span!("send").is_disabled());
            assert!(tracing::enabled!(tracing::Level::INFO));
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
        });
    }

    #[test]
    fn libraries_are_quiet_unless_the_level_names_them() {
        let shown = |level: &str| {
            let filter: EnvFilter = format!("{QUIET},{level}").parse().expect("valid");
            let subscriber = Registry::default().with(filter);
            tracing::subscriber::with_default(subscriber, || tracing::enabled!(target: "openraft", Level::INFO))
        };
        assert!(!shown("info"));
        assert!(!shown("debug"));
        assert!(shown("info,openraft=info"));
    }
}
