use std::{fs, time::Duration};

use super::*;

fn load(toml: &str) -> Result<LoadedConfig, ConfigError> {
    load_with(toml, &[])
}

fn load_with(toml: &str, variables: &[(&str, &str)]) -> Result<LoadedConfig, ConfigError> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("mesh.toml");
    fs::write(&path, toml).expect("write the file");
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    MeshConfig::loader().file(path).variables(variables).load()
}

/// The error's text without the temporary folder's name.
fn problems(result: Result<LoadedConfig, ConfigError>) -> String {
    let text = result.expect_err("a bad configuration").to_string();
    let lines = text.lines().map(|line| match line.find("/mesh.toml") {
        Some(at) => format!("{}{}", if line.starts_with("  ") { "  " } else { "" }, &line[at + 1..]),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let loaded = load("").expect("nothing wrong");
    assert_eq!(loaded.config, MeshConfig::default());
    assert!(loaded.settings().iter().all(|setting| setting.source == Source::Default));
}

#[test]
fn the_environment_overrides_the_file_and_the_program_overrides_both() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("mesh.toml");
    fs::write(&path, "[gossip]\nrings = 4\nprobe_interval = \"2s\"\nindirect_probes = 1\n").expect("write");
    let loaded = MeshConfig::loader()
        .file(&path)
        .variables([
            ("MESH_GOSSIP__PROBE_INTERVAL".into(), "3s".into()),
            ("MESH_GOSSIP__RINGS".into(), "5".into()),
        ])
        .set("gossip.rings", "6")
        .load()
        .expect("nothing wrong");
    let gossip = &loaded.config.gossip;
    assert_eq!((gossip.rings, gossip.probe_interval, gossip.indirect_probes), (6, Duration::from_secs(3), 1));
    assert_eq!(loaded.source_of("gossip.rings"), Source::Code);
    assert_eq!(loaded.source_of("gossip.probe_interval").to_string(), "MESH_GOSSIP__PROBE_INTERVAL");
    assert_eq!(loaded.source_of("gossip.indirect_probes").to_string(), format!("{}:4", path.display()));
    assert_eq!(loaded.source_of("gossip.push_flush"), Source::Default);
}

#[test]
fn text_from_the_environment_takes_the_type_of_its_setting() {
    let loaded = load_with(
        "",
        &[
            ("MESH_NODE__ID", "7"),
            ("MESH_NODE__LABELS__TIER", "gold"),
            ("MESH_GOSSIP__SEEDS", "a:1, b:2"),
            ("MESH_GOSSIP__ENABLED", "false"),
            ("MESH_CONTEXT", "no setting: no double underscore"),
        ],
    )
    .expect("nothing wrong");
    let MeshConfig { node, gossip, .. } = loaded.config;
    assert_eq!(node.id.expect("set").as_str(), "7");
    assert_eq!(node.labels["tier"], "gold");
    assert_eq!(gossip.seeds, ["a:1", "b:2"]);
    assert!(!gossip.enabled);
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_with_its_line() {
    let text = problems(load_with(
        "\
[node]
id = \"Not Valid\"
regoin = \"eu\"

[gossip]
probe_intervall = \"1s\"
probe_timeout_max = \"2s\"
push_flush = \"soon\"
rings = 99

[gosip]
seeds = []
",
        &[("MESH_GOSSIP__SEED", "a:1"), ("MESH_GOSSIP__INDIRECT_PROBES", "many")],
    ));
    insta::assert_snapshot!(text, @r#"
    the configuration has 9 problems
      mesh.toml:2: node.id ("Not Valid") is not allowed: node id "Not Valid" is not valid: it has a character that is not allowed; allowed are 1 to 63 characters of a-z, 0-9, '-' and '.', starting and ending with a letter or digit
      mesh.toml:3: node.regoin is not a setting; did you mean node.region?
      mesh.toml:6: gossip.probe_intervall is not a setting; did you mean gossip.probe_interval?
      mesh.toml:7: gossip.probe_timeout_max (2s) must be shorter than gossip.probe_interval (1s)
      mesh.toml:8: gossip.push_flush ("soon") must be a duration, such as 500ms or 2s
      mesh.toml:9: gossip.rings (99) must be between 0 and 16
      mesh.toml:11: gosip is not a setting; did you mean gossip?
      MESH_GOSSIP__SEED: gossip.seed is not a setting; did you mean MESH_GOSSIP__SEEDS?
      MESH_GOSSIP__INDIRECT_PROBES: gossip.indirect_probes ("many") must be a whole number, not negative
    "#);
}

#[test]
fn a_broken_file_is_reported_with_its_line() {
    insta::assert_snapshot!(problems(load("[node]\nid = \"a\"\nzone = \n")), @"mesh.toml:3: this is not TOML: string values must be quoted, expected literal string");
}

#[test]
fn a_value_where_a_section_belongs_is_named() {
    insta::assert_snapshot!(problems(load("gossip = 3\n")), @"mesh.toml:1: gossip is a section, not a value of type integer; write [gossip]");
}

#[test]
fn a_rule_about_several_settings_names_the_line_of_one_of_them() {
    let text = problems(load("[transport.tls]\nkey = \"node.key\"\n"));
    assert!(text.starts_with("mesh.toml:2: transport.tls."), "{text}");
}

#[test]
fn a_preset_changes_defaults_and_single_settings_still_win() {
    let loaded = load("[gossip]\npreset = \"wan\"\nsuspicion_max = \"30s\"\n").expect("nothing wrong");
    assert_eq!(loaded.config.gossip.probe_interval, GossipConfig::wan().probe_interval);
    assert_eq!(loaded.config.gossip.suspicion_max, Duration::from_secs(30));
    assert_eq!(loaded.source_of("gossip.probe_interval").to_string(), "preset wan");
    assert_eq!(loaded.source_of("gossip.push_flush"), Source::Default);
    let listed =
        loaded.settings().into_iter().find(|setting| setting.name == "gossip.preset").expect("listed");
    assert!(listed.value == "wan" && listed.source.to_string().ends_with("mesh.toml:2"), "{listed:?}");
    insta::assert_snapshot!(problems(load("[gossip]\npreset = \"moon\"\n")), @r#"mesh.toml:2: gossip.preset ("moon") must be one of "lan", "wan", "local""#);
}

#[cfg(feature = "sync")]
#[test]
fn datasets_come_from_a_file_and_from_the_command_line() {
    let loaded = load(
        "[sync]\ncheck_interval = \"2s\"\n\n[[sync.datasets]]\nname = \"notes\"\naccess = \"cluster\"\n",
    );
    let sync = loaded.expect("nothing wrong").config.sync;
    assert_eq!((sync.check_interval, sync.datasets[0].name.as_str()), (Duration::from_secs(2), "notes"));
    assert_eq!(sync.datasets[0].access, mesh_sync::config::Access::Cluster);
    let set = r#"[{name = "notes"}, {name = "photos", priority = 1}]"#;
    let loaded = MeshConfig::loader().set("sync.datasets", set).load().expect("nothing wrong");
    assert_eq!(loaded.config.sync.datasets[1].priority, 1);
    insta::assert_snapshot!(
        problems(load("[[sync.datasets]]\nname = \"Notes\"\n")),
        @"mesh.toml:1: sync.datasets[0].name (Notes) is refused: dataset \"Notes\" is not valid: it has a character that is not allowed; allowed are 1 to 63 characters of a-z, 0-9, '-', '_' and '.', starting and ending with a letter or digit"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = MeshConfig::loader().file("/nowhere/mesh.toml").load().expect_err("no such file");
    insta::assert_snapshot!(error, @"cannot read the configuration file /nowhere/mesh.toml; check that it exists and may be read");
}

#[test]
fn no_setting_hides_from_the_list_of_known_ones() {
    // An optional setting that its section leaves out when empty would be refused as unknown.
    let loaded = load("").expect("nothing wrong");
    let names: Vec<String> = loaded.settings().into_iter().map(|s| s.name).collect();
    for name in ["node.id", "node.labels", "gossip.seeds", "transport.bind", "control.enabled"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing from {names:?}");
    }
}
