//! A network for one test.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xtask::build::{Binaries, PROCESSES};
use xtask::model;
use xtask::network::depositor::{Depositor, Terms};
use xtask::network::plan::Plan;
use xtask::network::{Network, Parts};
use xtask::secret;
use xtask::stop::{Stop, wait_until};
use xtask::tools::Tools;
use xtask::workspace::Workspace;

use crate::LIMIT;
use crate::database::TestDatabase;

/// A running network in a folder and with a database of its own.
#[derive(Debug)]
pub struct Scene {
    // Declared, and so dropped, before what it uses.
    network: Network,
    _database: TestDatabase,
}

impl Scene {
    /// Runs `act` on a network of `nodes` registered nodes, with or without fallback hardware.
    ///
    /// Afterwards the network is stopped in order and forgotten; when `act` fails its folder with logs and state stays.
    pub fn play(name: &str, nodes: usize, fallback: bool, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        Self::play_with(name, nodes, fallback, |_| {}, act)
    }

    /// The same, on a network that `change` makes different.
    pub fn play_with(
        name: &str,
        nodes: usize,
        fallback: bool,
        change: impl FnOnce(&mut Plan),
        act: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let unique = format!("{name}_{}", secret::random_hex(4)?);
        let workspace = Workspace::here();
        let dir = workspace.network_dir("e2e").join(&unique);
        let left = || format!("logs and state of this network: {}", dir.display());
        let mut scene = Self::start(&workspace, &unique, nodes, fallback, change).with_context(left)?;
        let result = act(&mut scene);
        if result.is_err()
            && let Some(obituary) = scene.network.obituary()
        {
            eprintln!("{obituary}");
        }
        let killed = scene.network.stop_all();
        result.with_context(left)?;
        ensure!(killed.is_empty(), "{killed:?} did not stop in time\n{}", left());
        drop(scene);
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }

    fn start(workspace: &Workspace, unique: &str, nodes: usize, fallback: bool, change: impl FnOnce(&mut Plan)) -> Result<Self> {
        let stop = Stop::default();
        let parts = parts(workspace, &stop)?;
        let database = TestDatabase::create(unique)?;
        let dir = workspace.network_dir("e2e").join(unique);
        let mut plan = Plan { nodes, fallback, database: database.plan()?, ..Plan::test(dir) };
        change(&mut plan);
        let network = Network::start(plan, parts, &stop, &mut |line| println!("{line}"))?;
        Ok(Self { network, _database: database })
    }

    /// A depositor whose credits the meter has mirrored.
    pub fn funded(&self, name: &str, terms: &Terms) -> Result<Depositor> {
        let (depositor, _) = self.network.depositor(name, terms)?;
        depositor.await_credits(&self.chain, &self.deployment, &self.meter(), self.stop())?;
        Ok(depositor)
    }
}

impl Deref for Scene {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Network {
        &mut self.network
    }
}

/// Waits until `probe` is true.
pub fn await_that(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_until(what, LIMIT, &Stop::default(), || Ok(probe()?.then_some(())))
}

/// Binaries of `PARALLELIX_BINARIES`, which `cargo xtask test` sets; otherwise they are compiled here.
fn parts(workspace: &Workspace, stop: &Stop) -> Result<Parts> {
    let tools = Tools::ready(workspace, stop, &mut |line| println!("{line}"))?;
    let binaries = match std::env::var_os("PARALLELIX_BINARIES") {
        Some(folder) => Binaries::at(&PathBuf::from(folder)),
        None => Binaries::only(workspace, &PROCESSES, false, stop)?,
    };
    let model = model::ready(workspace, &binaries.gpu_node, stop)?;
    Ok(Parts { root: workspace.root.clone(), tools, binaries, model })
}
