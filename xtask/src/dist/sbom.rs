//! Software bill of materials: every crate that is linked into the agent, as a CycloneDX document.
//!
//! Pure, from what `cargo metadata` says and the checksums in `Cargo.lock`. The same sources give
//! the same bytes, so it has no time and no serial number.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde_json::{Value, json};

/// Version of the format.
const SPEC_VERSION: &str = "1.5";

/// Package of the program.
const PROGRAM: &str = "spillway-agent";

/// Returns the document for the output of `cargo metadata` and the text of `Cargo.lock`.
pub fn document(metadata: &str, lock: &str) -> anyhow::Result<String> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is no JSON")?;
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let named = |(_, package): &(&&str, &&Value)| package["name"] == PROGRAM;
    let (program, described) =
        packages.iter().find(named).context("cargo metadata does not know the agent")?;
    let linked = linked(&nodes, program);
    let checksums = checksums(lock);
    let mut components: Vec<_> = linked
        .iter()
        .filter(|id| *id != program)
        .filter_map(|id| packages.get(id))
        .map(|package| component(package, &checksums))
        .collect();
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "spillway",
                "name": "spillway",
                "version": described["version"],
                "licenses": [{"expression": described["license"]}],
            },
        },
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&sbom)? + "\n")
}

/// Returns a list's entries by their `id`.
fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| Some((entry["id"].as_str()?, entry))).collect()
}

/// Returns what a package is linked with, itself included: not what only builds or tests it.
fn linked<'a>(nodes: &BTreeMap<&'a str, &'a Value>, program: &'a str) -> BTreeSet<&'a str> {
    let mut linked = BTreeSet::new();
    let mut left = vec![program];
    while let Some(id) = left.pop() {
        if !linked.insert(id) {
            continue;
        }
        let deps = nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        let is_linked = |dep: &&Value| {
            let kinds = dep["dep_kinds"].as_array().into_iter().flatten();
            kinds.into_iter().any(|kind| kind["kind"].is_null())
        };
        left.extend(deps.filter(is_linked).filter_map(|dep| dep["pkg"].as_str()));
    }
    linked
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let (name, version) = (text("name"), text("version"));
    let mut component = json!({
        "type": "library",
        "bom-ref": format!("{name}@{version}"),
        "name": name,
        "version": version,
    });
    // Crates of this workspace are published nowhere.
    if !package["source"].is_null() {
        component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
    }
    if let Some(license) = package["license"].as_str() {
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if let Some(sum) = checksums.get(&(name, version)) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    component
}

/// Returns the checksums in the text of `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |package: &str, key: &str| {
        let start = format!("{key} = \"");
        let line = package.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let entry = |package: &str| {
        Some(((value(package, "name")?, value(package, "version")?), value(package, "checksum")?))
    };
    lock.split("[[package]]").filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
                        source = \"x\"\nchecksum = \"0a1b\"\n\n[[package]]\nname = \"b\"\n\
                        version = \"2.0.0\"\n";

    fn metadata() -> String {
        let package = |name: &str, version: &str, source: Value| {
            json!({
                "id": name, "name": name, "version": version, "license": "MIT/Apache-2.0",
                "source": source,
            })
        };
        let dep = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        json!({
            "packages": [
                package(PROGRAM, "0.1.0", Value::Null),
                package("a", "1.0.0", json!("x")),
                package("b", "2.0.0", Value::Null),
                package("builder", "3.0.0", json!("x")),
            ],
            "resolve": {"nodes": [
                {"id": PROGRAM, "deps": [
                    dep("a", Value::Null),
                    dep("builder", json!("build")),
                    dep("other", json!("dev")),
                ]},
                {"id": "a", "deps": [dep("b", Value::Null)]},
                {"id": "b", "deps": [dep("a", Value::Null)]},
            ]},
        })
        .to_string()
    }

    #[test]
    fn bill_lists_what_is_linked_with_its_checksum() {
        let sbom: Value = serde_json::from_str(&document(&metadata(), LOCK).unwrap()).unwrap();
        assert_eq!(sbom["metadata"]["component"]["version"], "0.1.0");
        let components = sbom["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(components[0]["purl"], "pkg:cargo/a@1.0.0");
        assert_eq!(components[0]["hashes"][0]["content"], "0a1b");
        assert_eq!(components[0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert!(components[1]["purl"].is_null() && components[1]["hashes"].is_null());
    }

    #[test]
    fn what_is_no_metadata_is_refused() {
        for text in ["", "{}", "[]"] {
            assert!(document(text, LOCK).is_err(), "{text}");
        }
    }
}
