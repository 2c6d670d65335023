//! A network for one test.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use anyhow::Result;
use xtask::build::Binaries;
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

/// A running network in a folder and with a database of its own; both go when the test ends well.
#[derive(Debug)]
pub struct Scene {
    // Declared, and so dropped, before what it uses.
    network: Network,
    _database: TestDatabase,
    dir: PathBuf,
}

impl Scene {
    /// A network of `nodes` registered nodes, with or without fallback hardware, further changed by `change`.
    pub fn new(name: &str, nodes: usize, fallback: bool, change: impl FnOnce(&mut Plan)) -> Result<Self> {
        let stop = Stop::default();
        let workspace = Workspace::here();
        let parts = parts(&workspace, &stop)?;
        let unique = format!("{name}_{}", secret::random_hex(4)?);
        let dir = workspace.network_dir("e2e").join(&unique);
        let database = TestDatabase::create(&unique)?;
        let mut plan = Plan { nodes, fallback, database: database.plan()?, ..Plan::test(dir.clone()) };
        change(&mut plan);
        let mut say = |line: &str| println!("{line}");
        let network = Network::start(plan, parts, &stop, &mut say)?;
        Ok(Self { network, _database: database, dir })
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

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(obituary) = self.network.obituary() {
                eprintln!("{obituary}");
            }
            eprintln!("logs and state: {}", self.dir.display());
            return;
        }
        self.network.stop_all();
        fs::remove_dir_all(&self.dir).ok();
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
        None => Binaries::build(workspace, &["--package", "meter", "--package", "keeper", "--package", "gpu-node", "--bins"], stop)?,
    };
    let model = model::ready(workspace, &binaries.gpu_node, stop)?;
    Ok(Parts { root: workspace.root.clone(), tools, binaries, model })
}
