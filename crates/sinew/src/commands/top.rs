//! `sinew top`: what the gateway does now, again every second.

mod exposition;
mod page;
mod screen;
mod view;

use std::{
    io::{ErrorKind, IsTerminal, Write, stdout},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use sinew_core::{Clock, units};

use self::{
    exposition::Exposition,
    screen::{Screen, Wish},
    view::View,
};
use crate::{client::Target, table, time};

/// `sinew top`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Look twice, an interval apart, print what happened between, and end
    #[arg(long)]
    once: bool,
    /// Print JSON, an object on a line for each interval
    #[arg(long)]
    json: bool,
    /// Time between two looks, such as 500ms or 5s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    #[command(flatten)]
    target: Target,
}

fn interval(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3_600);
    match units::read_duration(text) {
        Some(interval) if bounds.contains(&interval) => Ok(interval),
        _ => Err("a time from 100ms to 1h, such as 500ms or 5s".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let clock = Clock::system();
    let first = Look::take(&args.target, &clock)?;
    if !args.once && !args.json && stdout().is_terminal() {
        live(args, &clock, first)?;
    } else {
        print(args, &clock, first)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the node counted up to a moment.
struct Look {
    taken: Duration,
    counted: Exposition,
}

impl Look {
    fn take(target: &Target, clock: &Clock) -> Result<Self> {
        let mut text = Vec::new();
        target.download("/metrics", |chunk| {
            text.extend_from_slice(chunk);
            Ok(())
        })?;
        let text = String::from_utf8(text).context("the metrics are no text")?;
        Ok(Self {
            taken: clock.monotonic(),
            counted: Exposition::read(&text),
        })
    }

    fn since(&self, before: &Self) -> View {
        let time = self.taken.saturating_sub(before.taken);
        View::between(&before.counted, &self.counted, time)
    }
}

/// For pipes and scripts: nothing but text, one page or line after the other.
fn print(args: &Args, clock: &Clock, mut before: Look) -> Result<()> {
    let mut out = stdout().lock();
    loop {
        thread::sleep(args.interval);
        let now = Look::take(&args.target, clock)?;
        let view = now.since(&before);
        before = now;
        let text = if args.json {
            format!("{}\n", serde_json::to_string(&view)?)
        } else if args.once {
            page::text(&view)
        } else {
            format!("{}\n{}\n", time::now(), page::text(&view))
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
        if args.once {
            return Ok(());
        }
    }
}

/// On a terminal, until `q`.
fn live(args: &Args, clock: &Clock, mut before: Look) -> Result<()> {
    let mut screen = Screen::open()?;
    let mut title = format!("sinew top, every {:?}; q ends it", args.interval);
    let mut lines = vec!["looking …".to_owned()];
    let mut due = clock.monotonic() + args.interval;
    loop {
        screen.show(&title, &lines)?;
        match screen.wait(clock, due)? {
            Some(Wish::Quit) => return Ok(()),
            // The terminal has another size.
            Some(Wish::Redraw) => continue,
            None => {}
        }
        due = clock.monotonic() + args.interval;
        match Look::take(&args.target, clock) {
            Ok(now) => {
                lines = page::lines(&now.since(&before));
                title = format!(
                    "sinew top, {}, every {:?}; q ends it",
                    time::now(),
                    args.interval
                );
                before = now;
            }
            // It may come back; what was seen last stays to be read.
            Err(error) => title = table::one_line(&format!("{} {error:#}", time::now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units_and_bounds() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("5s"), Ok(Duration::from_secs(5)));
        for wrong in ["5", "0s", "99ms", "s", "2h", "-1s"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
