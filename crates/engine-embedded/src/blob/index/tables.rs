//! The index as one transaction sees and changes it.

use redb::{ReadableTable, Table, WriteTransaction};
use sinew_core::Result;
use sinew_engine::blob::{Key, Object, OnlyIf, Upload, exists, part_invalid};

use super::{
    super::{
        fault,
        files::FileId,
        record::{PartRecord, Record, Segment, UploadRecord},
    },
    FILES, NUMBERS, OBJECTS, PARTS, UPLOADS, object, parts_of, pending,
};

/// The tables of one transaction. A change looks at everything that could refuse it before it writes,
/// so that the refusal of one leaves the others of its group alone.
pub(in crate::blob) struct Tables<'t> {
    objects: Table<'t, &'static str, &'static [u8]>,
    files: Table<'t, u128, u32>,
    uploads: Table<'t, (&'static str, &'static str), &'static [u8]>,
    parts: Table<'t, (&'static str, &'static str, u32), &'static [u8]>,
    numbers: Table<'t, &'static str, u64>,
    /// Files that no entry names any more.
    pub(in crate::blob) freed: Vec<FileId>,
}

impl<'t> Tables<'t> {
    pub(in crate::blob) fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            objects: transaction.open_table(OBJECTS).map_err(fault::index)?,
            files: transaction.open_table(FILES).map_err(fault::index)?,
            uploads: transaction.open_table(UPLOADS).map_err(fault::index)?,
            parts: transaction.open_table(PARTS).map_err(fault::index)?,
            numbers: transaction.open_table(NUMBERS).map_err(fault::index)?,
            freed: Vec::new(),
        })
    }

    pub(in crate::blob) fn number(&self, name: &str) -> Result<u64> {
        let row = self.numbers.get(name).map_err(fault::index)?;
        Ok(row.map_or(0, |row| row.value()))
    }

    pub(in crate::blob) fn set_number(&mut self, name: &str, number: u64) -> Result<()> {
        self.numbers.insert(name, number).map_err(fault::index)?;
        Ok(())
    }

    /// Names the group of changes that this transaction is; tells which number it has.
    pub(in crate::blob) fn name_group(&mut self) -> Result<u64> {
        let group = self.number("group")? + 1;
        self.set_number("group", group)?;
        Ok(group)
    }

    pub(in crate::blob) fn object(&self, key: &Key) -> Result<Option<Record>> {
        object(&self.objects, key)
    }

    pub(in crate::blob) fn publish(
        &mut self,
        object: Object,
        segments: Vec<Segment>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let before = self.object(&object.key)?;
        if only_if == OnlyIf::Absent && before.is_some() {
            return Err(exists(&object.key));
        }
        let record = Record { object, segments };
        let key = record.object.key.as_str();
        self.objects
            .insert(key, record.encode().as_slice())
            .map_err(fault::index)?;
        // First what is named now: a copy onto itself must not lose its files in between.
        record.files().try_for_each(|file| self.name(file))?;
        before
            .iter()
            .flat_map(Record::files)
            .try_for_each(|file| self.unname(file))?;
        Ok(record.object)
    }

    pub(in crate::blob) fn delete(&mut self, key: &Key) -> Result<()> {
        if let Some(before) = self.object(key)? {
            self.objects.remove(key.as_str()).map_err(fault::index)?;
            before.files().try_for_each(|file| self.unname(file))?;
        }
        Ok(())
    }

    pub(in crate::blob) fn begin(&mut self, upload: &Upload, record: &UploadRecord) -> Result<()> {
        let place = (upload.key.as_str(), upload.id.as_str());
        self.uploads
            .insert(place, record.encode().as_slice())
            .map_err(fault::index)?;
        Ok(())
    }

    pub(in crate::blob) fn put_part(&mut self, upload: &Upload, record: &PartRecord) -> Result<()> {
        pending(&self.uploads, upload)?;
        let number = record.part.number;
        let place = (upload.key.as_str(), upload.id.as_str(), number);
        let before = {
            let row = self
                .parts
                .insert(place, record.encode().as_slice())
                .map_err(fault::index)?;
            row.map(|row| PartRecord::decode(number, row.value()))
                .transpose()?
        };
        if let Some(segment) = record.segment {
            self.name(segment.file)?;
        }
        match before.and_then(|before| before.segment) {
            Some(segment) => self.unname(segment.file),
            None => Ok(()),
        }
    }

    /// What the named parts make.
    pub(in crate::blob) fn assemble(
        &self,
        upload: &Upload,
        named: &[(u32, String)],
    ) -> Result<(UploadRecord, Vec<PartRecord>)> {
        let record = pending(&self.uploads, upload)?;
        if named.is_empty() || !named.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return Err(part_invalid(
                "name at least one part, and each once, in growing order",
            ));
        }
        let mut parts = parts_of(&self.parts, upload)?;
        let mut found = Vec::new();
        for (number, tag) in named {
            match parts.remove(number) {
                Some(record) if record.part.tag == *tag => found.push(record),
                _ => {
                    return Err(part_invalid(format!(
                        "part {number} was not put, or put again"
                    )));
                }
            }
        }
        Ok((record, found))
    }

    /// Drops an upload and what its parts name.
    pub(in crate::blob) fn drop_upload(&mut self, upload: &Upload) -> Result<()> {
        let (key, id) = (upload.key.as_str(), upload.id.as_str());
        self.uploads.remove((key, id)).map_err(fault::index)?;
        for (number, record) in parts_of(&self.parts, upload)? {
            self.parts.remove((key, id, number)).map_err(fault::index)?;
            if let Some(segment) = record.segment {
                self.unname(segment.file)?;
            }
        }
        Ok(())
    }

    fn name(&mut self, file: FileId) -> Result<()> {
        let id = file.to_u128();
        let names = self
            .files
            .get(id)
            .map_err(fault::index)?
            .map_or(0, |row| row.value());
        self.files.insert(id, names + 1).map_err(fault::index)?;
        Ok(())
    }

    fn unname(&mut self, file: FileId) -> Result<()> {
        let id = file.to_u128();
        let names = self
            .files
            .get(id)
            .map_err(fault::index)?
            .map_or(0, |row| row.value());
        if names > 1 {
            self.files.insert(id, names - 1).map_err(fault::index)?;
        } else {
            self.files.remove(id).map_err(fault::index)?;
            self.freed.push(file);
        }
        Ok(())
    }
}
