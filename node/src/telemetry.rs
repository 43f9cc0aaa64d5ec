//! Logs to standard error, traces to an OTLP collector.

use std::time::Duration;

use metrics::counter;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Event, Level, Metadata};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt as _, LevelFilter, Targets, filter_fn},
    layer::{Context, SubscriberExt as _},
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use crate::{Config, LogFormat, log_writer::LogWriter, metrics::LOG_EVENTS, recent_log::RecentLog};

/// Libraries whose `info` lines matter only to their authors. A directive in log.level overrides this.
const QUIET: &str = "raft_engine=warn,fjall=warn,lsm_tree=warn,sled=warn,h2=warn,hyper=warn,tower=warn";

/// Time limit for writing the last lines at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Logs and traces of the process. Call [`Telemetry::flush`] at the end.
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    level: Handle<Targets, Registry>,
    log: LogWriter,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("trace.otlp_endpoint: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("log.level: {0}")]
    Level(String),
    #[error("can't start the thread that writes the log: {0}")]
    Log(#[from] std::io::Error),
    #[error("telemetry is installed already: {0}")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

impl Telemetry {
    /// Must be called within a Tokio runtime. `name` becomes the service name of the traces.
    pub fn install(config: &Config, name: &str) -> Result<Self, TelemetryError> {
        let tracer = if config.trace.otlp_endpoint.is_empty() { None } else { Some(provider(config, name)?) };
        let log = LogWriter::start(std::io::stderr())?;
        let (level, handle) = reload::Layer::new(filter(&config.log.level).map_err(TelemetryError::Level)?);
        Registry::default().with(layers(level, config.log.format, log.clone(), tracer.as_ref())).try_init()?;
        Ok(Self { tracer, level: handle, log })
    }

    /// Replaces the filter of the log.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        let level = filter(level).map_err(TelemetryError::Level)?;
        self.level.reload(level).map_err(|error| TelemetryError::Level(error.to_string()))
    }

    /// Sends and writes what is waiting, for a short time. Blocks.
    pub fn flush(&self) {
        self.log.flush(LAST_LINES);
        if let Some(tracer) = &self.tracer
            && let Err(error) = tracer.shutdown_with_timeout(Duration::from_secs(3))
        {
            tracing::warn!(%error, "not all traces were sent");
            self.log.flush(LAST_LINES);
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.log.flush(LAST_LINES);
    }
}

/// The filter for a value of log.level, or what is wrong with the value.
pub(crate) fn filter(level: &str) -> Result<Targets, String> {
    // The log contains only events, so a filter by span would have no effect.
    if let Some(wrong) = level.split(',').map(str::trim).find(|word| word.contains('[')) {
        return Err(format!("\"{wrong}\" filters by span, which the log does not know: it must be MODULE=LEVEL"));
    }
    // A single word that is not a level would be taken for the name of a module, and nothing else would be logged.
    let words = level.split(',').map(str::trim).filter(|word| !word.contains('='));
    if let Some(wrong) = words.into_iter().find(|word| word.is_empty() || word.parse::<LevelFilter>().is_err()) {
        return Err(format!(
            "\"{wrong}\" is no level: it must be error, warn, info, debug, trace or off, or MODULE=LEVEL"
        ));
    }
    format!("{QUIET},{},{level}", carillon_storage::LOG_LEVELS.join(","))
        .parse::<Targets>()
        .map_err(|error| error.to_string())
}

/// Spans are for traces only. Without a tracer no layer wants them, so they are disabled and cost nothing. The layers
/// are a list, because an `Option` of a layer wants every span even if it is `None`.
fn layers(
    level: ReplaceableLevel,
    format: LogFormat,
    log: LogWriter,
    tracer: Option<&SdkTracerProvider>,
) -> Vec<BoxedLayer> {
    let logs = tracing_subscriber::fmt::layer().with_writer(log);
    let logs = match format {
        LogFormat::Text => logs.with_ansi(false).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    // It is valid.
    let counts = CountEvents.with_filter(filter("warn").unwrap_or_default()).boxed();
    let recent = RecentLog::of_process().clone().with_filter(filter("warn").unwrap_or_default()).boxed();
    let mut layers = vec![logs.with_filter(level.and(filter_fn(is_no_span))).boxed(), counts, recent];
    if let Some(provider) = tracer {
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("carillon"));
        layers.push(traces.with_filter(filter_fn(is_own_span)).boxed());
    }
    layers
}

/// Counts warnings and errors.
struct CountEvents;

impl Layer<Registry> for CountEvents {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, Registry>) {
        let level = if *event.metadata().level() == Level::ERROR { "error" } else { "warn" };
        counter!(LOG_EVENTS, "level" => level).increment(1);
    }
}

/// A log filter that can be replaced while it is in use.
type ReplaceableLevel = reload::Layer<Targets, Registry>;
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
    // The node that began a trace has decided for the whole trace.
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
        let (level, handle) = reload::Layer::new(filter("info").expect("valid"));
        let log = LogWriter::start(std::io::sink()).expect("a thread");
        let subscriber = Registry::default().with(layers(level, LogFormat::Text, log, None));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::info_span!("send").is_disabled());
            assert!(tracing::enabled!(tracing::Level::INFO));
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            handle.reload(filter("debug").expect("valid")).expect("in use");
            assert!(tracing::enabled!(tracing::Level::DEBUG), "the level can be changed");
        });
    }

    #[test]
    fn libraries_are_quiet_unless_the_level_names_them() {
        let shown = |level: &str| {
            let subscriber = Registry::default().with(filter(level).expect("valid"));
            tracing::subscriber::with_default(subscriber, || tracing::enabled!(target: "openraft", Level::INFO))
        };
        assert!(!shown("info"));
        assert!(!shown("debug"));
        assert!(shown("info,openraft=info"));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for right in ["info", "WARN", "off", "info,carillon_router=debug"] {
            filter(right).expect(right);
        }
        for wrong in
            ["loud", "inof", "carillon_router", "info,,debug", "", "info,=loud", "info,x=loud", "warn,[sign_in]=debug"]
        {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }
}
