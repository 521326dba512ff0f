use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use sinew_core::{Error, Kind};

use super::{StoreError, Stored, error::corrupt};

/// The format of the folder. Raise it with every change that an older Sinew would misread.
const FORMAT: u64 = 1;

/// Reads the format of the folder, or writes it into a new one.
pub(super) fn check_format(dir: &Path) -> Stored<()> {
    let path = dir.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u64>() {
            Ok(format) if format <= FORMAT => Ok(()),
            Ok(format) => Err(StoreError(Error::new(
                Kind::FailedPrecondition,
                "kv.format_newer",
                format!(
                    "the data was written by a newer Sinew (format {format}, this one reads up to \
                     {FORMAT}); run that version"
                ),
            ))),
            Err(_) => Err(corrupt("the format file does not hold a number")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Whole or not at all, also when the power goes.
            let draft = dir.join("format.new");
            let mut file = File::create(&draft)?;
            writeln!(file, "{FORMAT}")?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            Ok(sync_dir(dir)?)
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
