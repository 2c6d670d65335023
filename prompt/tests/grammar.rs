//! JSON answers: what may come next, and schemas that would cost too much.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::catch_unwind;

use prompt::{Grammar, GrammarError, Prompter};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use wire::node::AnswerFormat;

use common::{VOCABULARY, open};

fn schema(schema: &Value) -> AnswerFormat {
    AnswerFormat::JsonSchema { schema: schema.to_string() }
}

fn allowed(grammar: &mut Grammar) -> Vec<u32> {
    let mut logits = vec![0.0; VOCABULARY];
    grammar.forbid(&mut logits).unwrap();
    logits.iter().zip(0..).filter(|(logit, _)| **logit == 0.0).map(|(_, id)| id).collect()
}

/// Whether the grammar takes `text` and then ends; what it refuses is an error.
fn takes(prompter: &Prompter, format: &AnswerFormat, text: &str) -> bool {
    let mut grammar = prompter.grammar(format).unwrap().unwrap();
    let tokens = prompter.encode(text).unwrap();
    let whole = tokens.iter().all(|token| allowed(&mut grammar).contains(token) && grammar.accept(*token).is_ok());
    whole && allowed(&mut grammar).contains(&prompter.eos_token_ids()[0])
}

/// A walk that chooses among what is allowed, to the end of the answer or `steps`.
fn walk(prompter: &Prompter, grammar: &mut Grammar, steps: usize, mut seed: u64) -> Option<String> {
    let mut tokens = Vec::new();
    for _ in 0..steps {
        let allowed = allowed(grammar);
        assert!(!allowed.is_empty());
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let token = allowed[(seed >> 33) as usize % allowed.len()];
        if prompter.eos_token_ids().contains(&token) {
            return Some(prompter.decode(&tokens).unwrap());
        }
        grammar.accept(token).unwrap();
        tokens.push(token);
    }
    None
}

#[test]
fn text_needs_no_grammar() {
    assert!(open().grammar(&AnswerFormat::Text).unwrap().is_none());
}

#[test]
fn only_json_objects_are_taken_and_only_the_end_of_turn_after_them() {
    let prompter = open();
    for good in [r#"{}"#, r#"{"a": [1, -2.5e3, true, null, {"é🙂": "\n\""}]}"#, r#"{ "a" : {} }"#] {
        assert!(takes(&prompter, &AnswerFormat::JsonObject, good), "{good}");
    }
    for bad in ["[]", "1", " {}", r#"{"a":}"#, r#"{"a" 1}"#, r#"{"a":01}"#, "{'a':1}", r#"{"a":1,}"#, "{", "x", "{  }", "{\n}"] {
        assert!(!takes(&prompter, &AnswerFormat::JsonObject, bad), "{bad}");
    }

    let mut grammar = prompter.grammar(&AnswerFormat::JsonObject).unwrap().unwrap();
    for token in prompter.encode("{}").unwrap() {
        grammar.accept(token).unwrap();
    }
    assert_eq!(allowed(&mut grammar), prompter.eos_token_ids());
    assert!(grammar.accept(prompter.eos_token_ids()[0]).is_ok());
    assert!(grammar.accept(prompter.encode(" ").unwrap()[0]).is_err());

    let number = schema(&json!({"type": "integer"}));
    let mut grammar = prompter.grammar(&number).unwrap().unwrap();
    grammar.accept(prompter.encode("7").unwrap()[0]).unwrap();
    assert!(grammar.accept(prompter.eos_token_ids()[0]).is_ok(), "an end where more could follow");
}

#[test]
fn a_schema_holds_names_order_types_and_choices() {
    let prompter = open();
    let format = schema(&json!({
        "type": "object",
        "properties": {"zeal": {"type": "integer", "minimum": 1, "maximum": 12}, "ant": {"enum": ["red", "blue"]}},
        "required": ["zeal", "ant"],
        "additionalProperties": false,
    }));
    assert!(takes(&prompter, &format, r#"{"zeal": 12, "ant": "red"}"#));
    for bad in [
        r#"{"ant": "red", "zeal": 12}"#,
        r#"{"zeal": 13, "ant": "red"}"#,
        r#"{"zeal": 1, "ant": "green"}"#,
        r#"{"zeal": 1}"#,
        r#"{"zeal": 1, "ant": "red", "x": 1}"#,
    ] {
        assert!(!takes(&prompter, &format, bad), "{bad}");
    }
}

#[test]
fn a_token_that_can_not_come_next_is_an_error() {
    let prompter = open();
    let mut grammar = prompter.grammar(&AnswerFormat::JsonObject).unwrap().unwrap();
    let error = grammar.accept(prompter.encode("[").unwrap()[0]).unwrap_err();
    assert!(matches!(error, GrammarError::Step(_)), "{error}");
    assert!(grammar.forbid(&mut [0.0; VOCABULARY]).is_err(), "it stays one");
}

#[test]
fn logits_beyond_the_tokenizer_are_forbidden() {
    let mut grammar = open().grammar(&AnswerFormat::JsonObject).unwrap().unwrap();
    let mut logits = vec![0.0; VOCABULARY + 50];
    grammar.forbid(&mut logits).unwrap();
    assert!(logits[VOCABULARY..].iter().all(|logit| *logit == f32::NEG_INFINITY));
}

#[test]
fn a_schema_that_can_not_be_used_says_why() {
    let prompter = open();
    let long: Map<String, Value> = (0..2_600).map(|i| (format!("p{i}"), json!({}))).collect();
    let cases = [
        (json!({"type": "banana"}), "banana"),
        (json!({"type": "string", "pattern": "("}), "unclosed group"),
        (json!({"type": "string", "minLength": 5, "maxLength": 2}), "minLength (5)"),
        (json!({"not": {}}), "not"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "string", "format": "frob"}), "frob"),
        (json!({"$ref": "#"}), "no answer can satisfy it"),
        (json!({"$ref": "http://127.0.0.1/schema"}), "http://127.0.0.1/schema"),
        (json!({"allOf": [{"$ref": "#"}, {"type": "object"}]}), "circular"),
        (json!({"oneOf": [{"type": "object"}, {"type": "object", "required": ["a"]}]}), "use `anyOf`"),
        (json!({"type": "integer", "multipleOf": 1_000_003}), "1000003"),
        (json!({"type": "integer", "multipleOf": 0}), "above 0"),
        (json!({"items": [{"multipleOf": -9e9}, {"multipleOf": 9e9}]}), "above 0"),
        (json!({"allOf": [{"type": "integer", "multipleOf": 9973}, {"type": "integer", "multipleOf": 9967}]}), "10000"),
        (json!({"type": "number", "multipleOf": 1e-300}), "multipleOf"),
        (json!({"minimum": "é".repeat(200)}), "can't be used"),
        (json!({"x-guidance": {"whitespace_pattern": ".*"}}), "x-guidance"),
        (json!({"type": "object", "properties": long}), "max is 10000"),
        (json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(9_000), ")".repeat(9_000))}), "nest"),
        (json!([]), "must be a JSON object"),
    ];
    for (bad, why) in cases {
        let shown: String = bad.to_string().chars().take(120).collect();
        let error = prompter.grammar(&schema(&bad)).err().unwrap_or_else(|| panic!("{shown} was taken")).to_string();
        assert!(error.contains(why) && error.contains("response_format") && error.len() < 600, "{shown}: {error}");
    }
    let error = prompter.grammar(&AnswerFormat::JsonSchema { schema: "{".into() }).map(drop).unwrap_err();
    assert!(matches!(error, GrammarError::Json(_)), "{error}");
}

#[test]
fn costly_schemas_are_served_within_their_limits() {
    let prompter = open();
    let nested = |depth: usize, wrap: &dyn Fn(Value) -> Value| (0..depth).fold(json!({"type": "string"}), |inner, _| wrap(inner));
    let properties: Map<String, Value> = (0..700).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
    let cases = [
        json!({"type": "array", "minItems": 1_000_000_000u64, "items": {"type": "object"}}),
        json!({"type": "string", "minLength": 100_000, "maxLength": 1_000_000_000u64}),
        json!({"type": "string", "pattern": "^((((a{1,100}){1,100}){1,100}){1,100})$"}),
        json!({"type": "string", "pattern": "^(a|b)*a(a|b){20}$"}),
        json!({"type": "string", "pattern": "^(\\p{L}|\\p{N}|.){1,200}x\\w{0,300}$"}),
        json!({"type": "integer", "multipleOf": 9973}),
        json!({"type": "object", "properties": properties}),
        json!({"type": "object", "required": (0..2_000).map(|i| format!("r{i}")).collect::<Vec<_>>()}),
        json!({"enum": (0..2_000).map(|i| format!("value {i}")).collect::<Vec<_>>()}),
        nested(60, &|inner| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]})),
        nested(60, &|inner| json!({"anyOf": [inner, {"type": "null"}]})),
        json!({"const": nested(60, &|inner| json!([inner]))}),
    ];
    for (index, costly) in cases.iter().enumerate() {
        let mut grammar = prompter.grammar(&schema(costly)).unwrap_or_else(|error| panic!("case {index}: {error}")).unwrap();
        walk(&prompter, &mut grammar, 120, index as u64);
    }
}

/// A stack that overflows ends the process, so nothing here may recurse as deep as its schema is long.
#[test]
fn long_and_deep_patterns_end_in_an_answer_or_an_error() {
    let prompter = open();
    let patterns = [
        "a".repeat(30_000),
        "a|".repeat(15_000),
        "ab|cd|".repeat(5_000),
        "a?".repeat(15_000),
        "(a?){5000}".to_owned(),
        "[a-z]".repeat(6_000),
        "(?:a*b)*".repeat(3_000),
        format!("{}a{}", "(".repeat(200), ")*".repeat(200)),
        format!("{}a{}", "(?:x|".repeat(200), ")".repeat(200)),
        ".*a.*b.*c.*d".repeat(200),
        "\\p{L}{1,50}".repeat(1_000),
        "é🙂".repeat(5_000),
    ];
    for (index, pattern) in patterns.into_iter().enumerate() {
        for anchored in [false, true] {
            let pattern = if anchored { format!("^{pattern}$") } else { pattern.clone() };
            if let Ok(Some(mut grammar)) = prompter.grammar(&schema(&json!({"type": "string", "pattern": pattern}))) {
                for step in 0..30 {
                    let mut logits = vec![0.0; VOCABULARY];
                    if grammar.forbid(&mut logits).is_err() {
                        break;
                    }
                    let token = (0..).zip(&logits).filter(|(_, logit)| **logit == 0.0).map(|(id, _)| id).nth((index + step) % 3);
                    if token.is_none_or(|token| grammar.accept(token).is_err()) {
                        break;
                    }
                }
            }
        }
    }
    let wide: Vec<Value> = (0..1_500).map(|i| json!({"const": i})).collect();
    for deep in [json!({"anyOf": wide}), json!({"allOf": vec![json!({"type": "object"}); 1_000]}), json!({"const": "x".repeat(30_000)})] {
        let _ = prompter.grammar(&schema(&deep));
    }
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        (-50i64..50, 0i64..50).prop_map(|(low, width)| json!({"type": "integer", "minimum": low, "maximum": low + width})),
        Just(json!({"type": "boolean"})),
        prop::collection::vec("[a-z é\"]{0,6}", 1..4).prop_map(|choices| json!({"enum": choices})),
        (0usize..4, 0usize..4).prop_map(|(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::btree_map("[a-z]{1,3}", inner.clone(), 1..4).prop_map(|properties| {
                let required: Vec<&String> = properties.keys().collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }),
            (inner.clone(), 0usize..2, 0usize..3)
                .prop_map(|(items, least, more)| json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})),
            prop::collection::vec(inner, 1..3).prop_map(|options| json!({"anyOf": options})),
        ]
    })
}

/// JSON Schema's integers are numbers without a fraction, however they are written; `-0`, which serde_json reads as a float, is one.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 2f64.powi(53)).map(|x| x as i64))
}

#[test]
fn the_checker_takes_an_integer_however_it_is_written() {
    let wanted = json!({"type": "integer", "minimum": -50, "maximum": 0});
    for (text, is_one) in [("-0", true), ("0", true), ("-50", true), ("-7.0", true), ("-7.5", false), ("1", false), ("\"0\"", false)] {
        assert_eq!(satisfies(&serde_json::from_str(text).unwrap(), &wanted), is_one, "{text}");
    }
}

/// A checker of its own for the keywords above.
fn satisfies(value: &Value, schema: &Value) -> bool {
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| satisfies(value, option));
    }
    if let Some(choices) = schema["enum"].as_array() {
        return choices.contains(value);
    }
    let within = |count: usize, least: &str, most: &str| {
        count as u64 >= schema[least].as_u64().unwrap_or(0) && count as u64 <= schema[most].as_u64().unwrap_or(u64::MAX)
    };
    match schema["type"].as_str() {
        Some("string") => value.as_str().is_some_and(|text| within(text.chars().count(), "minLength", "maxLength")),
        Some("integer") => integer(value).is_some_and(|n| (schema["minimum"].as_i64()..=schema["maximum"].as_i64()).contains(&Some(n))),
        Some("boolean") => value.is_boolean(),
        Some("array") => value
            .as_array()
            .is_some_and(|items| within(items.len(), "minItems", "maxItems") && items.iter().all(|item| satisfies(item, &schema["items"]))),
        Some("object") => value.as_object().zip(schema["properties"].as_object()).is_some_and(|(fields, properties)| {
            fields.len() == properties.len()
                && properties.iter().all(|(name, inner)| fields.get(name).is_some_and(|field| satisfies(field, inner)))
        }),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_walk_that_ends_parses_and_satisfies_its_schema(wanted in any_schema(), seed in any::<u64>()) {
        let prompter = open();
        let mut grammar = prompter.grammar(&schema(&wanted)).unwrap().unwrap();
        if let Some(text) = walk(&prompter, &mut grammar, 400, seed) {
            let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{wanted} gave {text:?}: {error}"));
            prop_assert!(satisfies(&answer, &wanted), "{wanted} gave {text}");
        }
    }

    #[test]
    fn two_grammars_of_one_schema_allow_the_same(wanted in any_schema(), seed in any::<u64>()) {
        let (mut one, mut other) = (open().grammar(&schema(&wanted)).unwrap().unwrap(), open().grammar(&schema(&wanted)).unwrap().unwrap());
        let mut state = seed;
        for _ in 0..40 {
            let choices = allowed(&mut one);
            prop_assert_eq!(&choices, &allowed(&mut other));
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let token = choices[(state >> 33) as usize % choices.len()];
            if one.accept(token).is_err() || token == open().eos_token_ids()[0] {
                break;
            }
            other.accept(token).unwrap();
        }
    }

    #[test]
    fn no_json_at_all_makes_compiling_panic(keyword in "type|enum|const|items|properties|required|pattern|minLength|minimum|multipleOf|anyOf|allOf|oneOf|\\$ref|\\$defs|format|additionalProperties|maxItems|patternProperties", value in any_json()) {
        let wanted = schema(&json!({ keyword: value }));
        let compiled = catch_unwind(|| open().grammar(&wanted).map(drop).map_err(|error| error.to_string()));
        prop_assert!(compiled.is_ok());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9f64..1e9).prop_map(Value::from),
        "string|object|array|#|#/a|[a-z(|)*]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("type|items|enum|allOf|anyOf|\\$ref|a", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}
