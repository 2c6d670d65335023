//! Fields of a JSON object, read one by one, so that every mistake names its field.

use serde_json::{Map, Value};

use super::error::ApiError;

/// A JSON object of which null fields are absent ones.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl Fields<'_> {
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn model(&self) -> Result<String, ApiError> {
        match self.get("model") {
            Some(Value::String(model)) => Ok(model.clone()),
            Some(other) => Err(wrong_type("model", "a string", other)),
            None => Err(ApiError::invalid("model", "missing_field", "`model` is missing; GET /v1/models lists them")),
        }
    }

    pub(super) fn bool(&self, field: &'static str) -> Result<Option<bool>, ApiError> {
        self.get(field).map(|value| value.as_bool().ok_or_else(|| wrong_type(field, "true or false", value))).transpose()
    }

    pub(super) fn f32(&self, field: &'static str) -> Result<Option<f32>, ApiError> {
        self.get(field)
            .map(|value| value.as_f64().map(|number| number as f32).ok_or_else(|| wrong_type(field, "a number", value)))
            .transpose()
    }

    pub(super) fn u32(&self, field: &'static str) -> Result<Option<u32>, ApiError> {
        let whole = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        self.get(field).map(|value| whole(value).ok_or_else(|| wrong_type(field, "a whole number from 0 to 4294967295", value))).transpose()
    }

    /// -1 is what other servers call off.
    pub(super) fn top_k(&self) -> Result<u32, ApiError> {
        if self.get("top_k").is_some_and(|value| *value == -1) { Ok(0) } else { Ok(self.u32("top_k")?.unwrap_or(0)) }
    }

    /// A negative seed is the same 64 bits.
    pub(super) fn seed(&self) -> Result<Option<u64>, ApiError> {
        let bits = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(|seed| seed as u64));
        self.get("seed").map(|value| bits(value).ok_or_else(|| wrong_type("seed", "a whole number of 64 bits", value))).transpose()
    }

    pub(super) fn strings(&self, field: &'static str) -> Result<Vec<String>, ApiError> {
        let wanted = "a string or an array of strings";
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong_type(field, wanted, item))).collect()
            }
            Some(other) => Err(wrong_type(field, wanted, other)),
        }
    }

    pub(super) fn tokens(&self, field: &'static str) -> Result<Vec<u32>, ApiError> {
        let wanted = "an array of token ids";
        let id = |item: &Value| item.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong_type(field, wanted, item));
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(id).collect(),
            Some(other) => Err(wrong_type(field, wanted, other)),
        }
    }
}

/// Names the field, what it must be and what it is; never its content, which may be long or private.
pub(super) fn wrong_type(field: &str, wanted: &str, value: &Value) -> ApiError {
    let given = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    ApiError::invalid(field, "invalid_type", format!("`{field}` must be {wanted}, it is {given}"))
}
