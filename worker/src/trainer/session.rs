//! What a trainer keeps warm between trials: the device, backbones, decoded images and prefixes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use sweeps::recipe::{Normalization, Preprocessing, Recipe, Setr};
use tch::{Device, Kind, Tensor};

use super::cache::Cache;
use super::device::{self, DeviceError};
use super::error::TrialError;
use super::inputs::{Frozen, Inputs, PREFIX_LIMIT};
use super::ran;
use super::samples::Samples;
use super::scenes::{Scenes, View};
use crate::backbone::{Backbone, Weights};
use crate::data::{self, Maps, Split};
use crate::home::{Home, TaskEntry, sha256};
use crate::protocol::FailureClass;
use crate::tuning::Entry;

const BACKBONES: usize = 8 << 30;
const IMAGES: usize = 4 << 30;
const PREFIXES: usize = 2 << 30;
const SCENES: usize = 2 << 30;
/// Largest split with label maps that is kept decoded, in bytes; of others, files are decoded when they are asked for.
const SCENES_LIMIT: u64 = 1 << 30;
/// Roughly what an image costs that is not kept.
const ENTRY: usize = 256;

type SplitKey = (PathBuf, String, Preprocessing, u32);
type PrefixKey = (SplitKey, String, Normalization, Entry);

/// A trainer's long-lived state.
#[derive(Debug)]
pub struct Session {
    home: Home,
    device: Device,
    backbones: Cache<String, Backbone>,
    splits: Cache<SplitKey, Split>,
    prefixes: Cache<PrefixKey, Tensor>,
    /// Digests of the splits that were read, by the folder of the task.
    hashes: HashMap<(PathBuf, String), String>,
    scenes: Cache<(PathBuf, String), Maps>,
}

impl Session {
    /// Opens the device (`auto`, `cpu`, `cuda:N`) and sets the number of CPU threads; 0 leaves libtorch's choice.
    pub fn new(home: Home, device: &str, threads: u32) -> Result<Session, DeviceError> {
        let device = device::open(device)?;
        if let Ok(threads @ 1..) = i32::try_from(threads) {
            tch::set_num_threads(threads);
        }
        Ok(Session {
            home,
            device,
            backbones: Cache::new(BACKBONES),
            splits: Cache::new(IMAGES),
            prefixes: Cache::new(PREFIXES),
            hashes: HashMap::new(),
            scenes: Cache::new(SCENES),
        })
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// The folder, class count and splits of a task.
    pub(super) fn task(&self, name: &str) -> Result<TaskEntry, TrialError> {
        Ok(self.home.task(name)?)
    }

    /// A backbone, what identifies it as it is read, and its file's sha256. It is loaded once; its file must be the one
    /// that the sidecar names.
    pub(crate) fn backbone(&mut self, name: &str) -> Result<(Rc<Backbone>, String, String), TrialError> {
        let entry = self.home.backbone(name)?;
        let want = entry.sidecar.sha256;
        // The same file may be read in two ways, with another pooling for example.
        let identity = format!("{want} {:?}", entry.sidecar.arch);
        if let Some(backbone) = self.backbones.get(&identity) {
            return Ok((backbone, identity, want));
        }
        let found = sha256(&entry.path).map_err(|e| {
            TrialError::new(FailureClass::BadNode, format!("failed to read {}: {e}", entry.path.display()))
        })?;
        if found != want {
            let message = format!(
                "{} has sha256 {found}, its sidecar says {want}; import the backbone again",
                entry.path.display()
            );
            return Err(TrialError::new(FailureClass::BadNode, message));
        }
        let arch = entry.sidecar.arch;
        let weights = Weights::read(&entry.path, &arch, Kind::Float, self.device)?;
        let bytes = arch.parameters() * 4;
        Ok((self.backbones.put(identity.clone(), Backbone::new(arch, weights), bytes), identity, want))
    }

    /// A digest of all that a run of the recipe reads: what it has read, or would.
    pub(super) fn digest(&mut self, recipe: &Recipe) -> Result<String, TrialError> {
        let (_, backbone, _) = self.backbone(&recipe.backbone)?;
        let task = self.task(&recipe.task)?;
        let mut hashes = Vec::new();
        for split in [&recipe.split.train, &recipe.split.eval].into_iter().chain(&recipe.split.test) {
            let key = (task.path.clone(), split.clone());
            let hash = match self.hashes.get(&key) {
                Some(known) => known.clone(),
                None if recipe.setr.is_some() => data::hash_maps(&task.path, split)?,
                None => data::hash(&task.path, i64::from(task.info.classes), split)?,
            };
            self.hashes.insert(key, hash.clone());
            hashes.push(hash);
        }
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        Ok(ran::inputs(&backbone, task.info.classes, &hashes))
    }

    /// A split of the recipe's task, with one label an image or with label maps.
    pub(super) fn samples(
        &mut self,
        recipe: &Recipe,
        task: &TaskEntry,
        split: &str,
        frozen: &Frozen,
    ) -> Result<Samples, TrialError> {
        match &recipe.setr {
            None => self.inputs(recipe, task, split, frozen).map(Samples::Labelled),
            Some(setr) => self.scenes(recipe, setr, task, split).map(Samples::Mapped),
        }
    }

    /// A split with label maps, every file of which was checked.
    fn scenes(
        &mut self,
        recipe: &Recipe,
        setr: &Setr,
        task: &TaskEntry,
        split: &str,
    ) -> Result<Scenes, TrialError> {
        let view = View::new(recipe, setr, self.device);
        let key = (task.path.clone(), split.to_owned());
        if let Some(maps) = self.scenes.get(&key) {
            return Ok(Scenes { maps, view });
        }
        let keep = SCENES_LIMIT.min(data::free_memory() / 4);
        let maps = Maps::open(&task.path, i64::from(task.info.classes), split, keep)?;
        self.hashes.insert(key.clone(), maps.sha256.clone());
        let bytes = if maps.is_kept() { maps.bytes as usize } else { maps.len() * ENTRY };
        Ok(Scenes { maps: self.scenes.put(key, maps, bytes), view })
    }

    /// A split with one label an image, its prefix computed if it is small enough to keep.
    fn inputs(
        &mut self,
        recipe: &Recipe,
        task: &TaskEntry,
        split: &str,
        frozen: &Frozen,
    ) -> Result<Inputs, TrialError> {
        let key = (task.path.clone(), split.to_owned(), recipe.preprocessing, recipe.image_size);
        let images = match self.splits.get(&key) {
            Some(images) => images,
            None => {
                let size = i64::from(recipe.image_size);
                let classes = i64::from(task.info.classes);
                let load = || data::load(&task.path, classes, split, recipe.preprocessing, size);
                let images = match load() {
                    Err(error) if error.is_out_of_memory() => {
                        self.splits.clear();
                        self.prefixes.clear();
                        load()?
                    }
                    other => other?,
                };
                self.hashes.insert((task.path.clone(), split.to_owned()), images.sha256.clone());
                let bytes = images.images.numel();
                self.splits.put(key.clone(), images, bytes)
            }
        };
        let prefix = match frozen.bytes(images.labels.size()[0], i64::from(recipe.image_size)) {
            Some(bytes) if bytes <= PREFIX_LIMIT => {
                let key = (key, frozen.identity.clone(), recipe.normalization, frozen.entry);
                Some(match self.prefixes.get(&key) {
                    Some(prefix) => prefix,
                    None => self.prefixes.put(key, frozen.prefix(&images), bytes),
                })
            }
            _ => None,
        };
        Ok(Inputs { split: images, prefix, frozen: frozen.clone() })
    }
}
