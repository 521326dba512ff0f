use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};
use shop::{
    audit::{self, Audit},
    shoppers::{Figures, Outages, Shoppers},
};
use sinew_core::Result;
use sinew_launcher::Stopped;

use super::{folder::Folder, show::millis};
use crate::table;

/// What came of the run.
pub(super) struct Summary {
    figures: Option<Figures>,
    audit: Audit,
    stopped: Stopped,
    ran: Duration,
    /// How often an instance fell.
    falls: usize,
}

impl Summary {
    /// Audits the databases; the services must have stopped.
    pub(super) fn new(
        folder: &Folder,
        shoppers: Option<&Shoppers>,
        outages: &Outages,
        ran: Duration,
        stopped: Stopped,
    ) -> Result<Self> {
        let acknowledged = shoppers.map(Shoppers::acknowledged).unwrap_or_default();
        let audit = audit::audit(&folder.shop(), &acknowledged)?;
        let figures = shoppers.map(Shoppers::figures);
        Ok(Self {
            figures,
            audit,
            stopped,
            ran,
            falls: outages.count().0,
        })
    }

    fn unexpected(&self) -> u64 {
        self.figures
            .as_ref()
            .map_or(0, |figures| figures.failures_unexpected)
    }

    /// Whether the audit holds and nothing failed that should not have.
    pub(super) fn sound(&self) -> bool {
        let stopped = self.stopped.killed.is_empty() && self.stopped.survivors.is_empty();
        self.audit.ok() && self.unexpected() == 0 && stopped
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(figures) = &self.figures {
            self.figures_text(figures, &mut text);
        }
        let _ = write!(
            text,
            "Audit of the services' databases\n\n{}\n",
            self.audit.table()
        );
        for id in &self.stopped.killed {
            let _ = writeln!(text, "{id} did not stop in time and was killed.");
        }
        for id in &self.stopped.survivors {
            let _ = writeln!(text, "{id} could not be stopped.");
        }
        let verdict = match (self.sound(), self.audit.ok()) {
            (true, _) => "Everything adds up, and nothing failed that should not have.",
            (false, false) => "The audit does NOT hold.",
            (false, true) => "The audit holds, but something failed that should not have.",
        };
        text + verdict
    }

    fn figures_text(&self, figures: &Figures, text: &mut String) {
        let seconds = self.ran.as_secs_f64().max(1e-9);
        let rows: Vec<[String; 7]> = figures
            .operations
            .iter()
            .map(|row| {
                [
                    row.operation.name().to_owned(),
                    row.latency.count().to_string(),
                    format!("{:.1}", millis(row.latency.quantile(0.5))),
                    format!("{:.1}", millis(row.latency.quantile(0.99))),
                    format!("{:.1}", millis(row.latency.max())),
                    row.throttled.to_string(),
                    row.failures.to_string(),
                ]
            })
            .collect();
        let header = [
            "REQUEST",
            "ANSWERS",
            "P50 MS",
            "P99 MS",
            "MAX MS",
            "TOLD TO WAIT",
            "ERRORS",
        ];
        let outcomes = &figures.outcomes;
        let _ = write!(
            text,
            "{}\n{} orders in {seconds:.1} s, {:.1}/s: {} paid, {} declined. {} times out of stock, \
             {} times no payment could be made.\n\
             {} cancelled, {} refunds, {} delivered. {} requests, {:.0}/s; order to outcome p50 {:.1} ms, \
             p99 {:.1} ms.\n\
             Errors: {} while an instance was down ({} falls), {} unexpected.\n",
            table::render(header, &rows),
            figures.orders(),
            figures.orders() as f64 / seconds,
            outcomes.paid,
            outcomes.declined,
            outcomes.out_of_stock,
            outcomes.unavailable,
            outcomes.cancelled,
            outcomes.refunds,
            outcomes.delivered,
            figures.requests(),
            figures.requests() as f64 / seconds,
            millis(figures.order_latency.quantile(0.5)),
            millis(figures.order_latency.quantile(0.99)),
            figures.failures_in_outages,
            self.falls,
            figures.failures_unexpected,
        );
        if let Some(first) = figures.first_order {
            let _ = writeln!(
                text,
                "The first order was complete {:.2} s after the start.",
                first.as_secs_f64()
            );
        }
        for sample in &figures.samples {
            let _ = writeln!(text, "  {sample}");
        }
        text.push('\n');
    }

    pub(super) fn json(&self) -> Value {
        let checks: Vec<Value> = self
            .audit
            .checks
            .iter()
            .map(|check| {
                json!({
                    "what": check.what, "expected": check.expected, "actual": check.actual,
                    "wrong": check.wrong, "examples": check.examples, "ok": check.ok(),
                })
            })
            .collect();
        let traffic = self.figures.as_ref().map(|figures| {
            let latency = figures.latency();
            json!({
                "orders": figures.orders(),
                "outcomes": figures.outcomes,
                "first_order_seconds": figures.first_order.map(|first| first.as_secs_f64()),
                "requests": figures.requests(),
                "told_to_wait": figures.throttled(),
                "request_p50_ms": millis(latency.quantile(0.5)),
                "request_p99_ms": millis(latency.quantile(0.99)),
                "order_p50_ms": millis(figures.order_latency.quantile(0.5)),
                "order_p99_ms": millis(figures.order_latency.quantile(0.99)),
                "errors_in_outages": figures.failures_in_outages,
                "errors_unexpected": figures.failures_unexpected,
                "samples": figures.samples,
            })
        });
        json!({
            "event": "summary", "sound": self.sound(), "seconds": self.ran.as_secs_f64(),
            "falls": self.falls, "traffic": traffic,
            "killed": self.stopped.killed, "survivors": self.stopped.survivors,
            "audit": { "ok": self.audit.ok(), "checks": checks },
        })
    }
}
