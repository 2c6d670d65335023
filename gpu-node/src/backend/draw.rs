//! What a device is told of a draw, and what it answers.

/// How a row's next token is drawn (docs/numerics.md section 10): parameters within their ranges, and all that follows from the request's
/// prompt and answer so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// 0 takes the greatest logit.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    /// In [0, 1): the request's number for this position.
    pub uniform: f64,
    /// Ascending by token, each token once.
    pub changes: Vec<Change>,
}

/// What is done to one token's logit first, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub token: u32,
    /// The repetition penalty is applied.
    pub is_repeated: bool,
    /// Presence and frequency penalty together.
    pub minus: Option<f32>,
    pub bias: Option<f32>,
}

/// What a device found in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The token that the contract's sampler draws from these logits.
    Token(u32),
    /// A logit is not finite.
    NotFinite,
    /// Nothing was asked for, or the device can't be sure: the row's logits are to be read.
    Open,
}
