//! What the demo says: a live line on a terminal, plain lines elsewhere, or JSON lines.

use std::{
    io::{IsTerminal, Write, stdout},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use shop::shoppers::{Figures, Outages};
use sinew_core::Clock;

use super::{folder::Folder, services::Row, summary::Summary};
use crate::table;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One line that is drawn over again and again.
    Terminal,
    /// A line now and then.
    Lines,
    Json,
}

pub(super) struct Show {
    style: Style,
    clock: Clock,
    /// When the last line was drawn, or the shoppers set out, and how many orders there were.
    last: (Duration, u64),
}

impl Show {
    pub(super) fn new(json: bool, clock: Clock) -> Self {
        let style = match json {
            true => Style::Json,
            false if stdout().is_terminal() => Style::Terminal,
            false => Style::Lines,
        };
        Self {
            style,
            last: (clock.monotonic(), 0),
            clock,
        }
    }

    /// How long to wait between two lines.
    pub(super) fn pace(&self) -> Duration {
        match self.style {
            Style::Terminal => Duration::from_millis(500),
            Style::Lines | Style::Json => Duration::from_secs(2),
        }
    }

    /// Everything is healthy.
    pub(super) fn ready(
        &mut self,
        rows: &[Row],
        gateway: &str,
        control: &str,
        data: &Path,
        traffic: bool,
    ) {
        self.last = (self.clock.monotonic(), 0);
        if self.style == Style::Json {
            return self.json(json!({
                "event": "ready", "services": rows, "gateway": gateway, "control": control,
                "data": data,
            }));
        }
        let cells: Vec<[String; 4]> = rows
            .iter()
            .map(|row| {
                let (service, instance) = (row.service.to_string(), row.instance.to_string());
                [
                    service,
                    instance,
                    row.pid.to_string(),
                    row.address.to_string(),
                ]
            })
            .collect();
        let ada =
            "'{\"name\":\"Ada\",\"email\":\"ada@example.com\",\"password\":\"correct horse\"}'";
        let ada_again = "'{\"email\":\"ada@example.com\",\"password\":\"correct horse\"}'";
        let kind = "-H 'content-type: application/json'";
        self.print(&format!(
            "{}\ngateway      {gateway}\ncontrol API  {control}\ndata         {}\n\n\
             Try it:\n  \
             curl -s '{gateway}/api/products?limit=3'\n  \
             curl -s {gateway}/api/users {kind} -d {ada}\n  \
             curl -s {gateway}/api/users/login {kind} -d {ada_again}\n\n{}",
            table::render(["SERVICE", "INSTANCE", "PID", "ADDRESS"], &cells),
            data.display(),
            if traffic {
                "Shoppers are on their way; Ctrl-C ends it."
            } else {
                "Ctrl-C ends it."
            },
        ));
    }

    /// How it goes.
    pub(super) fn progress(&mut self, figures: &Figures, outages: &Outages) {
        let now = self.clock.monotonic();
        let orders = figures.orders();
        let (before, earlier) = std::mem::replace(&mut self.last, (now, orders));
        let seconds = now.saturating_sub(before).as_secs_f64();
        let rate = if seconds > 0.0 {
            orders.saturating_sub(earlier) as f64 / seconds
        } else {
            0.0
        };
        let p50 = figures.order_latency.quantile(0.5);
        let p99 = figures.order_latency.quantile(0.99);
        let (_, down) = outages.count();
        let errors = figures.failures_in_outages + figures.failures_unexpected;
        match self.style {
            Style::Json => self.json(json!({
                "event": "progress", "orders": orders, "orders_per_second": rate,
                "order_p50_ms": millis(p50), "order_p99_ms": millis(p99),
                "requests": figures.requests(), "errors": errors, "instances_down": down,
            })),
            Style::Terminal | Style::Lines => {
                let down = if down > 0 {
                    format!("  [{down} down]")
                } else {
                    String::new()
                };
                let line = format!(
                    "{orders:>7} orders  {rate:>6.1}/s   order p50 {:>5.1} ms  p99 {:>6.1} ms   \
                     {} requests  {errors} errors{down}",
                    millis(p50),
                    millis(p99),
                    figures.requests(),
                );
                if self.style == Style::Terminal {
                    self.draw(&format!("\r\x1b[2K{line}"));
                } else {
                    self.print(&line);
                }
            }
        }
    }

    /// One sentence on what happens now.
    pub(super) fn say(&self, text: &str) {
        match self.style {
            Style::Json => self.json(json!({ "event": "note", "text": text })),
            Style::Terminal => self.draw(&format!("\r\x1b[2K{text} …\n")),
            Style::Lines => self.print(text),
        }
    }

    /// The end.
    pub(super) fn summary(&self, summary: &Summary) {
        match self.style {
            Style::Json => self.json(summary.json()),
            Style::Terminal | Style::Lines => self.print(&format!("\n{}", summary.text())),
        }
    }

    /// Where the data stay.
    pub(super) fn kept(&self, folder: &Folder) {
        if self.style != Style::Json
            && let Some(path) = folder.kept()
        {
            self.print(&format!("The data stay in {}.", path.display()));
        }
    }

    fn json(&self, value: Value) {
        self.print(&value.to_string());
    }

    fn print(&self, text: &str) {
        self.draw(&format!("{text}\n"));
    }

    /// A reader that went away (`| head`) is no reason to leave the services unattended.
    fn draw(&self, text: &str) {
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Milliseconds with a fraction.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
