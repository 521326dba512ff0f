use std::{fmt::Write, path::PathBuf, process::ExitCode};

use sinew_node::offline::{self, StoreRepaired};

use crate::table;

/// `sinew repair`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The data folder, or the folder of an embedded store; nothing may run on it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let repaired = offline::repair(&args.folder)?;
    table::print(&render(&repaired))?;
    Ok(ExitCode::SUCCESS)
}

fn render(repaired: &StoreRepaired) -> String {
    let StoreRepaired {
        folder,
        damage,
        lost,
        kept,
        keys,
        revision,
    } = repaired;
    let mut text = String::new();
    let folder = folder.display();
    let Some(kept) = kept else {
        return format!(
            "{folder} is whole: {keys} keys, revision {revision}; nothing was changed\n"
        );
    };
    text.push_str("damaged:\n");
    for damage in damage {
        let _ = writeln!(text, "  {}", table::one_line(&damage.to_string()));
    }
    if lost.is_empty() {
        text.push_str("lost: nothing\n");
    } else {
        text.push_str("lost:\n");
    }
    for lost in lost {
        let _ = writeln!(text, "  {}", table::one_line(lost));
    }
    let _ = write!(
        text,
        "{folder} is repaired: {keys} keys, revision {revision}\nthe damaged one is kept as {}\n",
        kept.display()
    );
    text
}
