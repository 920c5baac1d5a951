//! Checks of the source itself by reading lines: names, English, layout.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Maximum length of a line in columns.
const COLUMNS_MAX: usize = 100;

/// Maximum length of a test's name in characters.
const TEST_NAME_MAX: usize = 60;

/// Percentage of doc comments that may begin with a word of [`VAGUE`]. Well-written codebases have
/// 1 or 2.
const VAGUE_PERCENT_MAX: f64 = 5.0;

/// First words that postpone the noun: "What it sends" instead of "Request sent".
const VAGUE: [&str; 6] = ["What", "Who", "Where", "How", "Its", "Whoever"];

/// Stages in the order of data flow. A file imports from its own stage and earlier ones.
const STAGES: [&str; 9] =
    ["clock", "units", "os", "bpf", "sense", "detect", "decide", "engine", "act"];

/// Source file.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Lines before the tests at the end of the file.
    fn product_lines(&self) -> impl Iterator<Item = &str> {
        let is_test_file = self.path.file_stem().is_some_and(|stem| {
            stem.to_string_lossy().ends_with("tests") || stem == "fuzzing" || stem == "sample"
        });
        let mut is_attribute = false;
        self.text.lines().filter(move |_| !is_test_file).take_while(move |line| {
            let starts_tests = is_attribute && line.starts_with("mod ") && line.ends_with('{');
            is_attribute = *line == "#[cfg(test)]";
            !starts_tests
        })
    }

    fn place(&self, line: usize) -> String {
        format!("{}:{}", self.path.display(), line + 1)
    }
}

/// Rust files below a folder of the checkout, by path.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("reading a folder of the checkout") {
            let path = entry.expect("reading a folder's entry").path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with("fuzz/corpus") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("reading a source file");
                let path = path
                    .strip_prefix(&root)
                    .expect("the path should be below the checkout")
                    .to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!sources.is_empty(), "{folder} has no Rust files");
    sources
}

/// Rust files of the whole project.
fn all_sources() -> Vec<Source> {
    ["agent", "agent-ebpf", "packaging", "xtask", "tests"].into_iter().flat_map(sources).collect()
}

/// Name of the type that a line declares, if any.
fn declared_type(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("pub").map_or(line, |rest| match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(") ").map_or("", |(_, rest)| rest),
        None => rest.trim_start(),
    });
    let (keyword, rest) = line.split_once(' ')?;
    if !["struct", "enum", "trait", "union", "type"].contains(&keyword) {
        return None;
    }
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    // Associated types are named by their traits.
    (keyword != "type" || !line.contains("= ") || !rest.starts_with("Item")).then_some(name)
}

#[test]
fn type_names_are_unique_in_the_agent() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources("agent/src") {
        for (number, line) in source.product_lines().enumerate() {
            // Associated types and types inside functions are indented.
            let Some(name) = declared_type(line).filter(|_| !line.starts_with(' ')) else {
                continue;
            };
            places.entry(name.to_owned()).or_default().push(source.place(number));
        }
    }
    let twice: Vec<_> = places.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "declared more than once: {twice:#?}");
}

#[test]
fn doc_comments_begin_with_a_noun_or_a_verb() {
    let (mut count, mut vague) = (0_u32, Vec::new());
    for source in all_sources() {
        let mut is_first = true;
        for (number, line) in source.product_lines().enumerate() {
            let line = line.trim_start();
            let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
                is_first = true;
                continue;
            };
            if std::mem::take(&mut is_first) {
                count += 1;
                let word = text.split_whitespace().next().unwrap_or_default();
                if VAGUE.contains(&word) {
                    vague.push(format!("{}:{text}", source.place(number)));
                }
            }
        }
    }
    let percent = 100.0 * vague.len() as f64 / f64::from(count);
    assert!(
        percent <= VAGUE_PERCENT_MAX,
        "{} of {count} doc comments ({percent:.1} %) begin vaguely: {vague:#?}",
        vague.len()
    );
}

#[test]
fn errors_sections_say_when_an_error_is_returned() {
    let mut wrong = Vec::new();
    for source in sources("agent/src") {
        let lines: Vec<_> = source.text.lines().map(str::trim_start).collect();
        for (number, window) in lines.windows(3).enumerate() {
            let text = window[2].trim_start_matches('/').trim_start();
            if window[0] == "/// # Errors" && !text.starts_with("Returns ") {
                wrong.push(format!("{}: {text}", source.place(number)));
            }
        }
    }
    assert!(wrong.is_empty(), "not \"Returns an error if …\": {wrong:#?}");
}

#[test]
fn lines_fit_the_width_of_a_screen() {
    let mut wide = Vec::new();
    for source in ["agent/src", "agent-ebpf/src", "xtask/src"].into_iter().flat_map(sources) {
        for (number, line) in source.product_lines().enumerate() {
            // Data: a hash or JSON.
            let is_data = line.contains("sha256") || line.contains("\": ");
            if line.chars().count() > COLUMNS_MAX && !is_data {
                wide.push(source.place(number));
            }
        }
    }
    assert!(wide.is_empty(), "{} lines are wider than {COLUMNS_MAX}: {wide:#?}", wide.len());
}

#[test]
fn test_names_are_short() {
    let mut long = Vec::new();
    for source in all_sources() {
        let mut is_test = false;
        for (number, line) in source.text.lines().enumerate() {
            let line = line.trim_start();
            let name = line
                .strip_prefix("async ")
                .unwrap_or(line)
                .strip_prefix("fn ")
                .and_then(|rest| rest.split('(').next());
            match name {
                Some(name) if is_test && name.len() > TEST_NAME_MAX => {
                    long.push(format!("{}: {name}", source.place(number)));
                }
                _ => {}
            }
            is_test = line.ends_with("test]") || (is_test && line.starts_with("#["));
        }
    }
    assert!(long.is_empty(), "{} names are longer than {TEST_NAME_MAX}: {long:#?}", long.len());
}

/// Documents point to tests by name, and names change.
#[test]
fn tests_named_in_documents_exist() {
    const DOCUMENTS: [&str; 6] = [
        "README.md",
        "SECURITY.md",
        "agent/README.md",
        "agent-ebpf/README.md",
        "configs/README.md",
        "tests/README.md",
    ];
    let sources = all_sources();
    let functions: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.text.lines())
        .filter_map(|line| line.trim_start().strip_prefix("fn ")?.split('(').next())
        .collect();
    let is_module = |name: &str| {
        sources.iter().any(|source| {
            source.path.iter().any(|part| part == name) || {
                source.path.file_stem().is_some_and(|stem| stem == name)
            }
        })
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).expect("the checkout has it");
        // Every second part is code.
        let code = text.split('`').skip(1).step_by(2);
        let is_of_path =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:…".contains(c);
        for path in code.filter(|code| code.contains("::") && code.chars().all(is_of_path)) {
            let name = path.rsplit("::").next().unwrap_or_default();
            let exists = match name.strip_suffix('…') {
                Some(beginning) => functions.iter().any(|known| known.starts_with(beginning)),
                None => functions.contains(name) || is_module(name),
            };
            if !exists {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such test or module: {missing:#?}");
}

/// Checks that no documentation has code examples, because nothing runs them: building for an empty
/// run took a minute and a half.
#[test]
fn documentation_has_no_code_to_test() {
    let mut untested = Vec::new();
    for source in all_sources() {
        let mut is_open = false;
        for (number, line) in source.text.lines().enumerate() {
            let line = line.trim_start();
            let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
                continue;
            };
            let Some(language) = text.trim().strip_prefix("```") else { continue };
            is_open = !is_open;
            if is_open && !["text", "toml", "json", "sh"].contains(&language) {
                untested.push(source.place(number));
            }
        }
    }
    assert!(untested.is_empty(), "code in documentation that no test compiles: {untested:#?}");
}

#[test]
fn each_bpf_file_has_a_sensor_of_its_name() {
    let sensors: BTreeSet<_> = sources("agent/src/sense")
        .iter()
        .filter_map(|source| {
            let path = source.path.strip_prefix("agent/src/sense").ok()?;
            let first = path.components().next()?.as_os_str().to_string_lossy().into_owned();
            Some(first.trim_end_matches(".rs").to_owned())
        })
        .collect();
    let without: Vec<_> = sources("agent-ebpf/src")
        .into_iter()
        .filter(|source| source.text.lines().any(is_program))
        .filter_map(|source| Some(source.path.file_stem()?.to_string_lossy().into_owned()))
        // These two feed several sensors.
        .filter(|name| !["sock_state", "arrivals"].contains(&name.as_str()))
        .filter(|name| !sensors.contains(name))
        .collect();
    assert!(without.is_empty(), "no sensor is called {without:?}; sensors: {sensors:?}");
}

/// Returns true if a line declares a BPF program.
fn is_program(line: &str) -> bool {
    [
        "#[tracepoint",
        "#[btf_tracepoint",
        "#[raw_tracepoint",
        "#[perf_event",
        "link_section \
    = \"iter",
    ]
    .iter()
    .any(|attribute| line.trim_start().contains(attribute))
}

#[test]
fn stages_import_only_earlier_stages() {
    let mut wrong = Vec::new();
    for source in sources("agent/src") {
        let Ok(path) = source.path.strip_prefix("agent/src") else { continue };
        let first = path
            .components()
            .next()
            .expect("the path should have a first component")
            .as_os_str()
            .to_string_lossy();
        let stage = first.trim_end_matches(".rs");
        let Some(rank) = STAGES.iter().position(|name| *name == stage) else { continue };
        for (number, line) in source.product_lines().enumerate() {
            for later in &STAGES[rank + 1..] {
                let (absolute, grouped) = (format!("crate::{later}::"), format!("    {later}::"));
                if line.contains(&absolute) && !line.trim_start().starts_with("//")
                    || line.starts_with(&grouped) && !line.contains('(')
                {
                    wrong.push(format!("{} imports {later}", source.place(number)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the data flow: {wrong:#?}");
}
