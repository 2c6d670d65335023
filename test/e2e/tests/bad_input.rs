//! Bad input: an error object that says what to do, never a 500, never a lost credit.

use anyhow::{Context, Result, ensure};
use e2e::{Scene, question, receipts};
use serde_json::{Value, json};
use xtask::http::{Api, Reply};
use xtask::network::depositor::Terms;

/// The reply is an error of that status, in OpenAI's shape, with words in it.
fn refused(what: &str, reply: &Reply, status: u16) -> Result<()> {
    let error = &reply.body["error"];
    let shaped = ["message", "type", "code"].iter().all(|field| error[*field].is_string()) && error.get("param").is_some();
    ensure!(reply.status == status && shaped, "{what}: expected a {status} in OpenAI's shape, got {} {}", reply.status, reply.body);
    ensure!(error["message"].as_str().is_some_and(|message| message.len() > 15), "{what}: {error} says too little");
    Ok(())
}

/// A good question with one field changed.
fn with(field: &str, value: Value) -> Value {
    let mut body = question("What is the sea?", 8);
    body[field] = value;
    body
}

fn bad_bodies() -> Vec<(&'static str, Value, u16)> {
    let long = "the sea and the ships ".repeat(6_000);
    vec![
        ("unknown model", with("model", json!("gpt-9")), 404),
        ("model is no string", with("model", json!(7)), 400),
        ("no messages", with("messages", json!([])), 400),
        ("messages is no list", with("messages", json!("hello")), 400),
        ("unknown role", with("messages", json!([{"role": "wizard", "content": "hello"}])), 400),
        ("message without content", with("messages", json!([{"role": "user"}])), 400),
        ("over-long prompt", with("messages", json!([{"role": "user", "content": long}])), 400),
        ("negative temperature", with("temperature", json!(-1)), 400),
        ("absurd temperature", with("temperature", json!(1e9)), 400),
        ("temperature is no number", with("temperature", json!("hot")), 400),
        ("top_p above one", with("top_p", json!(1.5)), 400),
        ("negative top_k", with("top_k", json!(-5)), 400),
        ("zero max_tokens", with("max_tokens", json!(0)), 400),
        ("negative max_tokens", with("max_tokens", json!(-8)), 400),
        ("absurd max_tokens", with("max_tokens", json!(1_000_000_000)), 400),
        ("absurd penalty", with("presence_penalty", json!(99)), 400),
        ("too many choices", with("n", json!(1_000)), 400),
        ("absurd stop", with("stop", json!([1, 2, 3])), 400),
    ]
}

#[test]
fn every_kind_of_bad_input_is_an_error_that_says_what_to_do_and_costs_nothing() -> Result<()> {
    Scene::play("bad_input", 1, false, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let api = depositor.api(&scene.meter())?;
        let path = "/v1/chat/completions";

        for (what, body, status) in bad_bodies() {
            refused(what, &api.post(path, &body)?, status)?;
        }
        for text in ["", "{", "null", "[]", "\"hello\"", "{\"model\": \u{1}}", "{\"messages\":[[[[[[[[[["] {
            refused(&format!("malformed JSON `{text}`"), &api.post_text(path, text)?, 400)?;
        }
        refused("too large a body", &api.post_text(path, &" ".repeat(2 << 20))?, 413)?;
        refused("no key", &scene.meter().post(path, &question("What is the sea?", 8))?, 401)?;
        refused("an unknown key", &scene.meter().with_bearer("prlx_unknown").post(path, &question("What is the sea?", 8))?, 401)?;
        refused("somebody else's receipt", &api.get(&format!("/v1/receipts/0x{}", "7".repeat(64)))?, 404)?;
        refused("no such path", &api.get("/v1/nothing")?, 404)?;

        let credits = api.get("/v1/credits")?.ok("credits")?;
        ensure!(credits["available_credits"] == Terms::DEMO.deposit && credits["held_credits"] == 0, "{credits}");
        ensure!(receipts(scene, &depositor)?.is_empty(), "there is a receipt");
        Ok(())
    })
}

fn challenge(meter: &Api) -> Result<(Value, Value)> {
    let given = meter.post("/v1/session/challenge", &json!({}))?.ok("a challenge")?;
    Ok((given["secret"].clone(), given["challenge"].clone()))
}

#[test]
fn a_sign_in_with_a_wrong_signature_or_a_used_challenge_opens_nothing() -> Result<()> {
    Scene::play("bad_sign_in", 1, false, |scene| {
        let (meter, chain, deployment) = (scene.meter(), &scene.chain, &scene.deployment);
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let other = scene.funded("other", &Terms::DEMO)?;
        let deadline = chain.timestamp()? + 600;
        let attempt = |secret: &Value, challenge: &Value, deadline: u64, signer: &xtask::network::depositor::Depositor| -> Result<Reply> {
            let sign_in = json!({"owner": depositor.key.address, "challenge": challenge, "signDeadline": deadline});
            let signature = chain.sign_typed(&signer.key, &xtask::network::typed::sign_in(deployment, &sign_in))?;
            meter.post("/v1/session", &json!({"secret": secret, "sign_in": sign_in, "signature": signature}))
        };

        let (secret, hash) = challenge(&meter)?;
        refused("another wallet's signature", &attempt(&secret, &hash, deadline, &other)?, 401)?;
        refused("a challenge that was used", &attempt(&secret, &hash, deadline, &depositor)?, 401)?;
        let (secret, hash) = challenge(&meter)?;
        refused("a signature that is too old", &attempt(&secret, &hash, 1_000, &depositor)?, 401)?;
        let (_, hash) = challenge(&meter)?;
        refused("a secret that nobody gave", &attempt(&json!(format!("0x{}", "5".repeat(64))), &hash, deadline, &depositor)?, 401)?;
        let (secret, hash) = challenge(&meter)?;
        let sign_in = json!({"owner": depositor.key.address, "challenge": hash, "signDeadline": deadline});
        let body = json!({"secret": secret, "sign_in": sign_in, "signature": "0x12"});
        refused("half a signature", &meter.post("/v1/session", &body)?, 401)?;

        let (secret, hash) = challenge(&meter)?;
        let opened = attempt(&secret, &hash, deadline, &depositor)?;
        ensure!(opened.status / 100 == 2, "a good sign-in: {} {}", opened.status, opened.body);
        let token = opened.body["session_token"].as_str().context("a session has a token")?;
        let session = meter.with_bearer(token);
        session.get("/v1/keys")?.ok("the session works")?;
        session.delete("/v1/session")?.ok("signing out")?;
        refused("a session that was ended", &session.get("/v1/keys")?, 401)
    })
}
