//! `GET /openapi.json`: every public route, as OpenAPI 3.1. The document is written by hand; the tests hold it against the router.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn show() -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use serde_json::{Value, json};

    use super::super::session::tests::Meter;
    use super::*;

    /// The page's files, and what operators ask of the process.
    const NOT_PUBLIC: [&str; 1] = ["health"];
    const METHODS: [&str; 4] = ["get", "post", "delete", "put"];

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Paths and methods of the document.
    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let of_path = |(path, methods): (&String, &Value)| {
            let path = path.clone();
            let methods: Vec<_> = methods.as_object().unwrap().iter().map(|(method, facts)| (method.clone(), facts.clone())).collect();
            methods.into_iter().map(move |(method, facts)| (path.clone(), method, facts))
        };
        paths.iter().flat_map(of_path).collect()
    }

    /// Every `.route("/…"` in the sources of the API, with its methods.
    fn routes() -> BTreeSet<(String, String)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api");
        let mut routes = BTreeSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_none_or(|extension| extension != "rs") || matches!(name.as_str(), "openapi.rs" | "web.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap().replace("wire::node::LINK_PATH", &format!("{:?}", wire::node::LINK_PATH));
            for route in source.split(".route(").skip(1) {
                let Some(route) = route.trim_start().strip_prefix('"') else { continue };
                let (path, rest) = route.split_once('"').unwrap();
                let end = rest.find(".route(").or_else(|| rest.find("\n}")).unwrap_or(rest.len());
                let handlers = &rest[..end.min(rest.find(".merge(").unwrap_or(end))];
                for method in METHODS.iter().filter(|method| handlers.contains(&format!("{method}("))) {
                    routes.insert((path.replace("{*id}", "{id}"), (*method).to_owned()));
                }
            }
        }
        routes
    }

    #[test]
    fn every_route_of_the_router_is_in_the_document_and_nothing_else() {
        let described: BTreeSet<_> = operations(&document()).into_iter().map(|(path, method, _)| (path, method)).collect();
        let routes = routes();
        assert!(routes.len() > 25, "{routes:?}");
        let undescribed: Vec<_> =
            routes.difference(&described).filter(|(path, _)| !NOT_PUBLIC.iter().any(|name| path.contains(name))).collect();
        let imagined: Vec<_> = described.difference(&routes).collect();
        assert!(undescribed.is_empty() && imagined.is_empty(), "not in openapi.json: {undescribed:?}; not in the router: {imagined:?}");
    }

    #[test]
    fn every_reference_leads_somewhere_and_ids_are_unique() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let mut seen = BTreeSet::new();
        for (path, method, facts) in operations(&document) {
            assert!(seen.insert(facts["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
            let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).count();
            let given = facts["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "path").count();
            assert_eq!(named, given, "{method} {path}");
        }
        let text = DOCUMENT.split("\"$ref\": \"#").skip(1).map(|rest| rest.split('"').next().unwrap());
        for reference in text {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
    }

    #[tokio::test]
    async fn what_needs_a_credential_is_refused_without_one() {
        let meter = Meter::open().await;
        for (path, method, facts) in operations(&document()) {
            let needs = facts["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
            let concrete = path.replace("{id}", "0x00").replace("{seq}", "1");
            let concrete = if path == "/v1/usage" { format!("{concrete}?from=2026-01-01&to=2026-01-01") } else { concrete };
            if path == "/v1/pool/events" || path == "/v1/node/link" {
                continue;
            }
            let reply = meter.call(&method.to_uppercase(), &concrete, &[("content-type", "application/json")], Body::from("{}")).await;
            assert_eq!(reply.status == 401, needs, "{method} {path}: {}", reply.status);
            assert!(reply.status != 405 && reply.body["error"]["code"] != "not_found", "{method} {path}");
            assert!(reply.status < 500 || path == "/v1/chain", "{method} {path}: {}", reply.status);
        }
    }

    #[tokio::test]
    async fn the_document_is_served() {
        let meter = Meter::open().await;
        let reply = meter.call("GET", "/openapi.json", &[], Body::empty()).await;
        assert_eq!((reply.status, &reply.body["openapi"]), (200, &json!("3.1.0")));
    }
}
