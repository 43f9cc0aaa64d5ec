//! Single figures of a run.

use serde::{Deserialize, Serialize};

use crate::measure::window::Window;

/// One number with its unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub unit: String,
    pub value: f64,
    pub better: Better,
}

/// The direction in which a figure improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
    /// The figure describes the run; neither direction is better.
    Neutral,
}

/// Accepted messages a second; `--min-rate` sets its level.
pub const RATE: &str = "accepted";
/// Changes of presence a second.
pub const CHANGES: &str = "changes";
/// Server CPU for each message, change of presence, sign-in or delivery; `--max-cpu-us` sets its level.
pub const SERVER_CPU: &str = "server CPU";
/// Server CPU for each delivery to a device, with all that was done for its message.
pub const SERVER_CPU_OF_A_DELIVERY: &str = "server CPU for a delivery";

impl Figure {
    pub fn lower(name: &str, unit: &str, value: f64) -> Self {
        Self::new(name, unit, value, Better::Lower)
    }

    pub fn higher(name: &str, unit: &str, value: f64) -> Self {
        Self::new(name, unit, value, Better::Higher)
    }

    pub fn neutral(name: &str, unit: &str, value: f64) -> Self {
        Self::new(name, unit, value, Better::Neutral)
    }

    fn new(name: &str, unit: &str, value: f64, better: Better) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), value, better }
    }
}

/// Rates and costs of messages that were accepted (and delivered) in the window.
pub fn message_figures(window: &Window) -> Vec<Figure> {
    let seconds = window.took.as_secs_f64();
    let mut figures = vec![
        Figure::higher(RATE, "1/s", window.counts.accepted as f64 / seconds),
        Figure::higher("delivered", "1/s", window.counts.delivered as f64 / seconds),
    ];
    figures.extend(cost(window, window.counts.accepted, "message"));
    if let (Some(us), delivered @ 1..) = (window.server_cpu_us(), window.counts.delivered) {
        figures.push(Figure::lower(SERVER_CPU_OF_A_DELIVERY, "us/delivery", us as f64 / delivered as f64));
    }
    figures
}

/// CPU of servers and generator for each of `count` things.
pub fn cost(window: &Window, count: u64, thing: &str) -> Vec<Figure> {
    if count == 0 {
        return Vec::new();
    }
    let each = |us: u64| us as f64 / count as f64;
    let unit = format!("us/{thing}");
    let server = window.server_cpu_us().map(|us| Figure::lower(SERVER_CPU, &unit, each(us)));
    server.into_iter().chain([Figure::neutral("generator CPU", &unit, each(window.own_cpu_us))]).collect()
}
