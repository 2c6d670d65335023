//! The steps of `cargo xtask test`, in their order.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::Suite;
use super::postgres::{MISSING, Postgres};
use super::summary::Count;
use crate::build::{self, Binaries, PROCESSES};
use crate::command;
use crate::kernels;
use crate::model;
use crate::network::Parts;
use crate::network::process::end_leftovers;
use crate::page;
use crate::tools::Tools;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Installs and checks the pinned tool chain.
    Tools,
    /// Formatting of Solidity and Rust.
    Format,
    /// Builds the contracts and runs forge's tests.
    Contracts,
    /// Checks, tests and builds the page, and weighs it.
    Web,
    /// Clippy over the workspace; warnings are errors.
    Lint,
    /// Compiles the CUDA kernels for every architecture and looks at their machine code.
    Kernels,
    /// Compiles everything once: binaries and tests.
    Build,
    /// The demo model, imported.
    Model,
    /// Cargo's tests of all crates but the end-to-end one, stores on SQLite and PostgreSQL.
    Crates,
    /// The whole network, on SQLite.
    E2eSqlite,
    /// The whole network, on PostgreSQL.
    E2ePostgres,
    /// The page in a real browser, against a whole network.
    Page,
}

impl Step {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 12] = [
        Self::Tools,
        Self::Format,
        Self::Contracts,
        Self::Kernels,
        Self::Web, // before the binaries, which embed what it builds
        Self::Build,
        Self::Lint,
        Self::Model,
        Self::Crates,
        Self::E2eSqlite,
        Self::E2ePostgres,
        Self::Page,
    ];

    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether this step is pointless after `other` failed.
    pub fn needs(self, other: Self) -> bool {
        match self {
            Self::Contracts => other == Self::Tools,
            Self::Model => other == Self::Build,
            // The engine is compared with llama.cpp on the model.
            Self::Crates => matches!(other, Self::Build | Self::Model),
            Self::Page => matches!(other, Self::Tools | Self::Web | Self::Build | Self::Model),
            Self::E2eSqlite | Self::E2ePostgres => matches!(other, Self::Tools | Self::Build | Self::Model),
            _ => false,
        }
    }
}

impl Suite<'_> {
    pub(super) fn step(&mut self, step: Step, count: &mut Count) -> Result<()> {
        match step {
            Step::Tools => self.tools().map(drop),
            Step::Format => self.format(count),
            Step::Contracts => self.contracts(count),
            Step::Kernels => self.kernels(count),
            Step::Build => self.binaries().map(drop),
            Step::Lint => self.lint(count),
            Step::Crates => self.crates(count),
            Step::Web => self.web(count),
            Step::Model => self.model(),
            Step::E2eSqlite => self.end_to_end(None, count),
            Step::E2ePostgres => {
                let url = self.postgres()?.map(|postgres| postgres.url.clone());
                self.end_to_end(Some(url.context(MISSING)?), count)
            }
            Step::Page => self.page(count),
        }
    }

    fn tools(&mut self) -> Result<Tools> {
        if self.tools.is_none() {
            self.tools = Some(Tools::ready(self.workspace, self.stop, &mut |line| println!("{line}"))?);
        }
        self.tools.clone().context("the tool chain is not there")
    }

    fn format(&mut self, count: &mut Count) -> Result<()> {
        let rust = self.show(self.workspace.cargo().args(["fmt", "--all", "--check"]), count);
        let solidity = self.tools().and_then(|tools| self.show(self.forge(&tools).args(["fmt", "--check"]), count));
        rust.and(solidity)
    }

    fn contracts(&mut self, count: &mut Count) -> Result<()> {
        let tools = self.tools()?;
        self.show(self.forge(&tools).arg("build"), count)?;
        // A gas figure that is not the committed one fails: `cargo xtask bench gas` writes them anew.
        self.show(self.forge(&tools).arg("test").env("FORGE_SNAPSHOT_CHECK", "true"), count)
    }

    fn kernels(&self, count: &mut Count) -> Result<()> {
        if !cfg!(target_os = "linux") {
            println!("not compiled: NVIDIA publishes no compiler for this system");
            return Ok(());
        }
        let (compiled, faults) = kernels::run(self.workspace, self.stop, &mut |line| println!("{line}"))?;
        count.passed += compiled as u64;
        count.failed += faults.len() as u64;
        faults.iter().for_each(|fault| println!("{fault}"));
        if faults.is_empty() { Ok(()) } else { bail!("{} kernels can't be used: {}", faults.len(), faults.join("; ")) }
    }

    fn forge(&self, tools: &Tools) -> Command {
        let mut forge = Command::new(&tools.forge);
        forge.current_dir(&self.workspace.root);
        forge
    }

    fn binaries(&mut self) -> Result<Binaries> {
        if self.binaries.is_none() {
            // One selection of packages and targets for everything below, so that cargo unifies features once.
            self.binaries = Some(Binaries::build(self.workspace, &["--workspace", "--all-targets"], &PROCESSES, self.stop)?);
        }
        self.binaries.clone().context("the binaries are not there")
    }

    /// The processes alone, where no step before has compiled everything.
    fn processes(&self) -> Result<Binaries> {
        match &self.binaries {
            Some(binaries) => Ok(binaries.clone()),
            None => Binaries::build(self.workspace, &["--workspace", "--bins"], &PROCESSES, self.stop),
        }
    }

    fn lint(&mut self, count: &mut Count) -> Result<()> {
        self.show(self.workspace.cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]), count)
    }

    fn crates(&mut self, count: &mut Count) -> Result<()> {
        let url = self.postgres()?.map(|postgres| {
            println!("PostgreSQL: {}", postgres.describe());
            postgres.url.clone()
        });
        self.cargo_tests(build::Selection::AllBut("e2e"), url.as_deref(), count)
    }

    fn web(&mut self, count: &mut Count) -> Result<()> {
        page::build::packages_ready(self.workspace, self.stop, &mut |line| println!("{line}"))?;
        self.show(&mut page::build::npm(self.workspace, &["run", "check"]), count)?;
        self.show(&mut page::build::npm(self.workspace, &["test"]), count)?;
        page::build::ready(self.workspace, self.stop, &mut |line| println!("{line}"))?;
        self.show(&mut page::build::npm(self.workspace, &["run", "size"]), count)
    }

    fn page(&mut self, count: &mut Count) -> Result<()> {
        let Some(browser) = page::browser::find() else {
            println!("{}", page::browser::MISSING);
            self.not_run.push(page::browser::MISSING);
            return Ok(());
        };
        page::build::ready(self.workspace, self.stop, &mut |line| println!("{line}"))?;
        let (tools, mut binaries) = (self.tools()?, self.processes()?);
        // The meter as it is shipped, which the page is a part of.
        binaries.meter = Binaries::only(self.workspace, &["meter"], true, self.stop)?.meter;
        let model = model::ready(self.workspace, &binaries.gpu_node, self.stop)?;
        let parts = Parts { root: self.workspace.root.clone(), tools, binaries, model };
        let mut running = page::network::PageNetwork::start(self.workspace, parts, &browser, self.stop, &mut |line| println!("{line}"))?;
        let result =
            page::specs::command(self.workspace, &running, self.specs, self.stop).and_then(|mut specs| self.show(&mut specs, count));
        running.network.stop_all();
        // Nodes that a spec killed were started again by the spec, and are nobody's child here.
        end_leftovers(&running.network.plan.dir);
        result
    }

    fn model(&mut self) -> Result<()> {
        let binaries = self.binaries()?;
        let folder = model::ready(self.workspace, &binaries.gpu_node, self.stop)?;
        println!("{} is in {}", model::MODEL, folder.display());
        Ok(())
    }

    fn end_to_end(&mut self, url: Option<String>, count: &mut Count) -> Result<()> {
        if url.is_none() {
            // What failed tests of an earlier run left for somebody to look at; this run's SQLite step is the first to add to it.
            fs::remove_dir_all(self.workspace.network_dir("e2e")).ok();
        }
        self.cargo_tests(build::Selection::Only("e2e"), url.as_deref(), count)
    }

    /// With nextest where it is installed; otherwise the test binaries are run one after the other.
    fn cargo_tests(&mut self, selection: build::Selection, url: Option<&str>, count: &mut Count) -> Result<()> {
        let binaries = self.binaries()?;
        let nextest = command::version("cargo-nextest").is_some();
        let mut commands =
            if nextest { vec![binaries.nextest(self.workspace, selection)] } else { binaries.tests(self.workspace, selection) };
        let mut failed = Vec::new();
        for command in &mut commands {
            command.env("PARALLELIX_BINARIES", &binaries.folder).env("PARALLELIX_MODEL", model::folder(self.workspace));
            match url {
                Some(url) => command.env("DATABASE_URL", url),
                None => command.env_remove("DATABASE_URL"),
            };
            if let Err(error) = self.show(command, count) {
                failed.push(error.to_string());
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!(failed.join("\n")) }
    }

    fn postgres(&mut self) -> Result<Option<&Postgres>> {
        if self.postgres.is_none() {
            self.postgres = Some(Postgres::find(self.stop)?);
        }
        Ok(self.postgres.as_ref().and_then(Option::as_ref))
    }
}
