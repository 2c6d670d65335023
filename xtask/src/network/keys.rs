//! Encrypted keys, each with a random password in a file for its owner only, made by the project's own binaries.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::chain::Key;
use crate::command;
use crate::secret;
use crate::stop::Stop;

const KEY_LIMIT: Duration = Duration::from_secs(60);

/// The key `{name}.json` in `folder`, made with `binary key new` when it is not there.
pub fn ready(binary: &Path, folder: &Path, name: &str, stop: &Stop) -> Result<Key> {
    let keystore = folder.join(format!("{name}.json"));
    let password_file = folder.join(format!("{name}.password"));
    let mut command = Command::new(binary);
    if keystore.is_file() && password_file.is_file() {
        command.args(["key", "address"]).arg(&keystore);
    } else {
        secret::write(&password_file, &secret::random_hex(32)?)?;
        command.args(["key", "new", "--out"]).arg(&keystore).arg("--password-file").arg(&password_file);
    }
    let said = command::capture(&mut command, KEY_LIMIT, stop)?;
    let address = said.split_whitespace().last().unwrap_or_default().to_owned();
    ensure!(address.len() == 42 && address.starts_with("0x"), "`{}` printed no address: {said}", command::describe(&command));
    Ok(Key { address, keystore, password_file })
}
