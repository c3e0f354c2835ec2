//! Calls that must not appear in Rust code: unfinished work, switched-off tests,
//! sleeping tests, and I/O in sans-io cores.

use super::Finding;
use crate::{code::code_only, repo::TextFile};

/// Macros that mean "not finished". Clippy warns of them too, but not in code behind a feature.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// Sans-io code: files, or folders with `/` at the end. A core is told the time, gets
/// its seed from its driver, and hands out what to send.
const CORES: &[&str] = &[
    "crates/mesh-core/src/datagrams.rs",
    "crates/mesh-core/src/hlc.rs",
    "crates/mesh-core/src/id.rs",
    "crates/mesh-core/src/machine.rs",
    "crates/mesh-core/src/member.rs",
    "crates/mesh-core/src/membership.rs",
    "crates/mesh-gossip/src/counters.rs",
    "crates/mesh-gossip/src/event.rs",
    "crates/mesh-gossip/src/gossip/",
    "crates/mesh-gossip/src/overlay.rs",
    "crates/mesh-gossip/src/rtt.rs",
    "crates/mesh-gossip/src/table.rs",
    "crates/mesh-gossip/src/wire/",
    "crates/mesh-registry/src/testing/history/",
];

/// What a core must not name, and why.
const OUTSIDE: &[(&str, &str)] = &[
    ("tokio", "the driver owns the runtime"),
    ("std::fs", "disk requests are effects"),
    ("std::thread", "a core never spawns"),
    ("std::time::Instant", "use mesh_core::Instant, which counts suspend"),
    ("std::time::SystemTime", "a core is told the time"),
    ("SystemTime", "a core is told the time"),
    ("SystemClock", "a core is told the time"),
    ("TcpStream", "the driver owns the sockets"),
    ("TcpListener", "the driver owns the sockets"),
    ("UdpSocket", "the driver owns the sockets"),
    ("thread_rng", "a core gets its seed from its driver"),
    ("HashMap", "iteration order depends on a hash seed"),
    ("HashSet", "iteration order depends on a hash seed"),
];

/// The comment, on the line or the one above, that gives the reason for a sleep in a test:
/// virtual time, a poll of the condition itself, a peer that has to be slow.
const SLEEP_REASON: &str = "// sleeps: ";

pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    let mut findings = stale_cores(files);
    findings.extend(calls(files));
    findings
}

/// Entries of the table that match no file any more, in crates that are there: a core
/// that was moved would go unchecked.
fn stale_cores(files: &[TextFile]) -> Vec<Finding> {
    let stale = CORES.iter().filter(|core| {
        let sources = core.split("src/").next().unwrap_or_default();
        let crate_is_there = files.iter().any(|file| file.path == format!("{sources}src/lib.rs"));
        crate_is_there && !files.iter().any(|file| is_in(core, &file.path))
    });
    stale
        .map(|core| {
            Finding::new(*core, "is in the table of sans-io cores, but there is no such file; mend the table")
        })
        .collect()
}

fn calls(files: &[TextFile]) -> Vec<Finding> {
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    rust.flat_map(|file| {
        let code = code_only(&file.text);
        let lines: Vec<&str> = file.text.lines().collect();
        let mut findings = Vec::new();
        let tests_from = first_test_line(&file.path, &code);
        let core = is_core(&file.path);
        for (index, line) in code.lines().enumerate() {
            let in_tests = tests_from.is_some_and(|from| index >= from);
            let may_sleep = !in_tests || gives_reason(&lines, index);
            let problems = of_line(line, may_sleep, core && !in_tests);
            findings.extend(problems.into_iter().map(|problem| Finding::at_line(&file.path, index, problem)));
        }
        findings
    })
    .collect()
}

fn of_line(line: &str, may_sleep: bool, in_core: bool) -> Vec<String> {
    let mut problems = Vec::new();
    for name in UNFINISHED {
        if has_word(line, name) {
            problems.push(format!("has {name}: finish it or leave it out"));
        }
    }
    if line.trim_start().starts_with("#[ignore") {
        problems.push("switches a test off: report it as skipped with the reason, or mend it".to_owned());
    }
    if !may_sleep && (has_word(line, "sleep(") || has_word(line, "sleep_until(")) {
        problems.push("sleeps in a test: wait for the condition, or say `// sleeps: why`".to_owned());
    }
    if in_core {
        // One remark for a line: `std::time::SystemTime` is in the table twice.
        let outside = OUTSIDE.iter().find(|(name, _)| has_word(line, name));
        problems.extend(outside.map(|(name, why)| format!("names {name} in a sans-io core: {why}")));
    }
    problems
}

fn gives_reason(lines: &[&str], index: usize) -> bool {
    let above = index.checked_sub(1).and_then(|above| lines.get(above));
    lines.get(index).into_iter().chain(above).any(|line| line.contains(SLEEP_REASON))
}

/// Whether this is sans-io code, its tests aside.
pub(crate) fn is_core(path: &str) -> bool {
    !path.ends_with("tests.rs") && CORES.iter().any(|core| is_in(core, path))
}

/// Whether a path is this file, or below this folder.
fn is_in(core: &str, path: &str) -> bool {
    if core.ends_with('/') { path.starts_with(core) } else { path == core }
}

/// The index of the line from which a file is test code; by convention tests come last.
fn first_test_line(path: &str, code: &str) -> Option<usize> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let integration =
        path.starts_with("tests/it/") || path.contains("/tests/") || path.starts_with("tests/tests/");
    if name == "tests.rs" || integration {
        return Some(0);
    }
    let lines: Vec<&str> = code.lines().collect();
    lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ") && pair[1].contains('{')
    })
}

/// Whether `word` stands in `line`, not as the tail of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open_end = word.ends_with(is_name);
        let longer = before.is_some_and(is_name) || (open_end && after.is_some_and(is_name));
        !longer
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{expect, file},
        *,
    };

    #[test]
    fn unfinished_work_is_found_with_its_line() {
        expect(&check(&[file("a.rs", "//! A.\nfn f() { todo!() }\n")]), &["a.rs:2: has todo!"]);
        expect(&check(&[file("a.rs", "unimplemented!(); dbg!(1);\n")]), &["unimplemented!", "dbg!"]);
        expect(&check(&[file("a.rs", "// todo!\nlet a = \"dbg!\"; my_todo!();\n")]), &[]);
    }

    #[test]
    fn a_switched_off_test_is_found() {
        expect(&check(&[file("a.rs", "    #[ignore = \"slow\"]\n")]), &["switches a test off"]);
    }

    #[test]
    fn a_sleeping_test_is_found_wherever_tests_live() {
        let sleep = "tokio::time::sleep(x).await;\n";
        expect(&check(&[file("crates/a/src/b/tests.rs", sleep)]), &["sleeps"]);
        expect(&check(&[file("crates/a/tests/b.rs", "std::thread::sleep(x);\n")]), &["sleeps"]);
        expect(
            &check(&[file("crates/a/src/b.rs", &format!("#[cfg(test)]\nmod tests {{\n{sleep}}}\n"))]),
            &["b.rs:3"],
        );
        expect(&check(&[file("crates/a/src/driver.rs", sleep)]), &[]);
        let reason = format!("// sleeps: the client is slow on purpose\n{sleep}");
        expect(&check(&[file("crates/a/tests/b.rs", &reason)]), &[]);
        expect(&check(&[file("crates/a/tests/b.rs", &format!("{reason}{sleep}"))]), &["b.rs:3"]);
    }

    #[test]
    fn io_in_a_core_is_found() {
        let core = "crates/mesh-gossip/src/gossip/probing.rs";
        expect(&check(&[file(core, "use tokio::sync::mpsc;\n")]), &["owns the runtime"]);
        expect(&check(&[file(core, "use std::net::UdpSocket;\n")]), &["owns the sockets"]);
        expect(&check(&[file(core, "let t = std::time::SystemTime::now();\n")]), &["told the time"]);
        expect(&check(&[file(core, "use std::net::SocketAddr;\nuse mesh_core::Instant;\n// tokio\n")]), &[]);
        expect(&check(&[file("crates/mesh-gossip/src/driver.rs", "use tokio::sync::mpsc;\n")]), &[]);
    }

    #[test]
    fn a_core_that_was_moved_is_found() {
        let findings = check(&[
            file("crates/mesh-gossip/src/lib.rs", "\n"),
            file("crates/mesh-gossip/src/rtt.rs", "\n"),
        ]);
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.starts_with("crates/mesh-gossip/src/overlay.rs")), "{lines:#?}");
        assert!(
            !lines.iter().any(|line| line.contains("rtt.rs") || line.contains("mesh-core")),
            "{lines:#?}"
        );
    }

    #[test]
    fn the_end_of_a_longer_name_is_not_the_name() {
        assert!(has_word("a.sleep(1)", "sleep("));
        assert!(!has_word("no_sleep(1)", "sleep("));
        assert!(!has_word("my_tokio_x", "tokio"));
    }
}
