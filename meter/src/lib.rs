
pub mod identity; // who calls: wallets, sessions, API keys
