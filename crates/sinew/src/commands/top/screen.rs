//! The terminal: a screen of its own, given back however the program ends.

use std::{
    io::{Stdout, Write, stdout},
    time::Duration,
};

use anyhow::{Context, Result};
use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{
        self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate,
        EnterAlternateScreen, LeaveAlternateScreen,
    },
};
use sinew_core::Clock;

/// What the person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// The terminal has changed.
    Redraw,
}

pub(super) struct Screen {
    out: Stdout,
}

impl Screen {
    pub(super) fn open() -> Result<Self> {
        terminal::enable_raw_mode().context("the terminal cannot be read key by key")?;
        // From here on dropping it gives the terminal back.
        let mut screen = Self { out: stdout() };
        queue!(screen.out, EnterAlternateScreen, Hide)?;
        screen.out.flush()?;
        Ok(screen)
    }

    /// Shows a title and as many lines as there is room for.
    pub(super) fn show(&mut self, title: &str, lines: &[String]) -> Result<()> {
        let (width, height) = terminal::size()?;
        let out = &mut self.out;
        queue!(
            out,
            BeginSynchronizedUpdate,
            MoveTo(0, 0),
            SetAttribute(Attribute::Reverse),
            Print(fitted(title, width)),
            SetAttribute(Attribute::Reset),
            Clear(ClearType::UntilNewLine)
        )?;
        let room = usize::from(height).saturating_sub(1);
        for (row, line) in (1..=height).zip(shown(lines, room)) {
            queue!(out, MoveTo(0, row))?;
            let is_heading = line.starts_with("UPSTREAM") || line.starts_with("ROUTE");
            if is_heading {
                queue!(out, SetAttribute(Attribute::Bold))?;
            }
            queue!(
                out,
                Print(fitted(&line, width)),
                SetAttribute(Attribute::Reset),
                Clear(ClearType::UntilNewLine)
            )?;
        }
        queue!(out, Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
        out.flush()?;
        Ok(())
    }

    /// Waits for a key or the moment, whichever comes first.
    pub(super) fn wait(&mut self, clock: &Clock, until: Duration) -> Result<Option<Wish>> {
        loop {
            let left = until.saturating_sub(clock.monotonic());
            if !event::poll(left)? {
                return Ok(None);
            }
            match event::read()? {
                Event::Resize(..) => return Ok(Some(Wish::Redraw)),
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let interrupted = key.modifiers.contains(KeyModifiers::CONTROL)
                        && key.code == KeyCode::Char('c');
                    if interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(Some(Wish::Quit));
                    }
                }
                _ if left > Duration::ZERO => {}
                _ => return Ok(None),
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = queue!(self.out, Show, LeaveAlternateScreen);
        let _ = self.out.flush();
        let _ = terminal::disable_raw_mode();
    }
}

/// As much of a line as fits.
fn fitted(line: &str, width: u16) -> String {
    line.chars().take(usize::from(width)).collect()
}

/// The lines for so many rows; the last says how many more there are.
fn shown(lines: &[String], room: usize) -> Vec<String> {
    if lines.len() <= room {
        return lines.to_vec();
    }
    let most = room.saturating_sub(1);
    let mut shown = lines[..most].to_vec();
    if room > 0 {
        shown.push(format!("… {} more lines", lines.len() - most));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let lines: Vec<String> = (0..5).map(|n| n.to_string()).collect();
        assert_eq!(shown(&lines, 5), lines);
        assert_eq!(shown(&lines, 3), ["0", "1", "… 3 more lines"]);
        assert!(shown(&lines, 0).is_empty());
        assert_eq!(fitted("äbc", 2), "äb");
    }
}
