//! One run of several.

use std::sync::Arc;

use sinew_engine::kv::Revision;

use super::{Merging, Work};
use crate::kv::index::{
    Stored,
    retained::Retained,
    run::{self, Cursor, Run, RunWriter},
    source::{Merged, Source},
};

/// Runs of like size that are merged, at least and at most.
const FEW: usize = 4;
const MANY: usize = 10;

impl Work {
    /// Runs that lie beside each other and are of like size, the smallest first.
    pub(super) fn pick(&self, limit: Option<u64>) -> Option<Vec<Arc<Run>>> {
        let view = self.state.view.read();
        let newer = view.sources.runs.iter();
        let runs: Vec<_> = newer.take_while(|run| Some(run.number) != limit).collect();
        let base = self.state.layer_bytes as u64 / 2 + 1;
        let tiers: Vec<u32> = runs
            .iter()
            .map(|run| (run.bytes / base).max(1).ilog(4))
            .collect();
        let mut start = 0;
        while start < runs.len() {
            let tier = tiers[start];
            let like = tiers[start..].iter().take_while(|other| **other <= tier);
            let count = like.count().min(MANY);
            if count >= FEW {
                let picked = runs[start..start + count].iter();
                return Some(picked.map(|run| Arc::clone(run)).collect());
            }
            start += 1;
        }
        None
    }

    /// Makes one run of several that lie beside each other. Between its steps what is more urgent is
    /// done: layers, and smaller merges of newer runs.
    pub(super) fn merge(&mut self, inputs: &[Arc<Run>]) -> Stored<Merging> {
        let floor = self.state.view.read().floor;
        let Some((newest, oldest)) = inputs.first().zip(inputs.last()) else {
            return Ok(Merging::Done);
        };
        let is_bottom = self.manifest.runs.last() == Some(&oldest.number);
        let number = self.new_file();
        let versions: u64 = inputs.iter().map(|run| run.versions).sum();
        let keys = usize::try_from(versions).unwrap_or(usize::MAX);
        let mut writer = RunWriter::new(&*self.storage, &self.folder, number, keys)?;
        let merged = self.write_merged(&mut writer, inputs, floor, is_bottom, newest.number);
        let path = self.folder.join(run::file_name(number));
        if !matches!(merged, Ok(Merging::Done)) {
            drop(writer);
            // The next start removes it otherwise.
            let _ = self.storage.remove(&path);
            return merged;
        }
        let mut output = None;
        if writer.is_empty() {
            self.storage.remove(&path)?;
        } else {
            writer.finish()?;
            output = Some(self.open_run(number)?);
        }
        let is_input = |number: u64| inputs.iter().any(|run| run.number == number);
        let mut manifest = self.manifest.clone();
        let at = manifest.runs.iter().position(|number| is_input(*number));
        let at = at.unwrap_or_default();
        manifest.runs.retain(|number| !is_input(*number));
        if output.is_some() {
            manifest.runs.insert(at, number);
        }
        self.write_manifest(manifest)?;
        self.change_sources(|sources| {
            sources.runs.retain(|run| !is_input(run.number));
            sources.runs.splice(at..at, output);
        });
        for run in inputs {
            run.make_obsolete();
        }
        Ok(Merging::Done)
    }

    fn write_merged(
        &mut self,
        writer: &mut RunWriter,
        inputs: &[Arc<Run>],
        floor: Revision,
        is_bottom: bool,
        newest: u64,
    ) -> Stored<Merging> {
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for run in inputs {
            sources.push(Box::new(Cursor::through(run)?));
        }
        let mut versions = Merged::new(sources);
        let mut retained = Retained::new(floor, is_bottom);
        while let Some(key) = versions.key() {
            let (revision, value) = (versions.revision(), versions.value());
            if retained.keeps(key, revision, value.is_none())
                && writer.add(key, revision, value)?
                && self.work_off(Some(newest))? == Merging::GivenUp
            {
                return Ok(Merging::GivenUp);
            }
            versions.advance()?;
        }
        Ok(Merging::Done)
    }
}
