//! Bindings of the contracts (`docs/protocol.md`, section 3), read from the Solidity interfaces at compile time, so that
//! Rust and Solidity can't drift.

pub use credits::IParalleliXAICredits as Credits;
pub use registry::IOperatorRegistry as Registry;
pub use settlement::IParalleliXSettlement as Settlement;

#[allow(missing_docs, clippy::too_many_arguments)]
mod credits {
    alloy::sol! {
        #[sol(rpc, all_derives)]
        "../contracts/interfaces/IParalleliXAICredits.sol"
    }
}

#[allow(missing_docs, clippy::too_many_arguments)]
mod settlement {
    alloy::sol! {
        #[sol(rpc, all_derives)]
        "../contracts/interfaces/IParalleliXSettlement.sol"
    }
}

#[allow(missing_docs, clippy::too_many_arguments)]
mod registry {
    alloy::sol! {
        #[sol(rpc, all_derives)]
        "../contracts/interfaces/IOperatorRegistry.sol"
    }
}
