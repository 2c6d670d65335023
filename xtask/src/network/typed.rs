//! EIP-712 documents (`docs/protocol.md`, section 2), as a wallet shows them.

use serde_json::{Value, json};

use super::deploy::Deployment;

/// Authorizes debits; fields as in the struct of that name.
pub fn spend_authorization(deployment: &Deployment, message: &Value) -> Value {
    credits(
        deployment,
        "SpendAuthorization",
        &json!([
            {"name": "owner", "type": "address"}, {"name": "cap", "type": "uint64"}, {"name": "exposure", "type": "uint48"},
            {"name": "validUntil", "type": "uint40"}, {"name": "challenge", "type": "bytes32"}, {"name": "nonce", "type": "uint32"},
            {"name": "signDeadline", "type": "uint40"},
        ]),
        message,
    )
}

/// Opens a session and authorizes nothing.
pub fn sign_in(deployment: &Deployment, message: &Value) -> Value {
    let fields = json!([
        {"name": "owner", "type": "address"}, {"name": "challenge", "type": "bytes32"}, {"name": "signDeadline", "type": "uint40"},
    ]);
    credits(deployment, "SignIn", &fields, message)
}

/// Lets the vault take `wei` of PRLX (EIP-2612).
pub fn permit(deployment: &Deployment, token: &str, owner: &str, wei: &str, nonce: &str, deadline: u64) -> Value {
    let fields = json!([
        {"name": "owner", "type": "address"}, {"name": "spender", "type": "address"}, {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"}, {"name": "deadline", "type": "uint256"},
    ]);
    let message = json!({"owner": owner, "spender": deployment.credits, "value": wei, "nonce": nonce, "deadline": deadline});
    document(token, deployment.chain_id, &deployment.prlx, "Permit", &fields, &message)
}

fn credits(deployment: &Deployment, name: &str, fields: &Value, message: &Value) -> Value {
    document("ParalleliXAICredits", deployment.chain_id, &deployment.credits, name, fields, message)
}

fn document(domain: &str, chain_id: u64, contract: &str, name: &str, fields: &Value, message: &Value) -> Value {
    json!({
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"}, {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"}, {"name": "verifyingContract", "type": "address"},
            ],
            name: fields,
        },
        "domain": {"name": domain, "version": "1", "chainId": chain_id, "verifyingContract": contract},
        "primaryType": name,
        "message": message,
    })
}
