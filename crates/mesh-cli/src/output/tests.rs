use serde_json::json;

use super::*;

const COLUMNS: &[Column] = &[
    Column { title: "NODE", wide: false, cell: |item| text_at(item, "node_id") },
    Column { title: "ZONE", wide: false, cell: |item| text_at(item, "zone") },
    Column { title: "LABELS", wide: true, cell: |item| text_at(item, "labels") },
];

fn render(format: Format) -> String {
    let items = [
        json!({"node_id": "a", "zone": "eu-1", "labels": {"tier": "gold", "x": "no"}}),
        json!({"node_id": "longer-name", "zone": null, "labels": {}, "seen": [1, [true, {"k": []}]]}),
    ];
    Listing { kind: "peers", name_key: "node_id", columns: COLUMNS, items: &items }.render(format)
}

#[test]
fn a_table_has_a_line_for_each_item_and_a_dash_for_nothing() {
    insta::assert_snapshot!(render(Format::Table), @"
    NODE         ZONE
    a            eu-1
    longer-name  -
    ");
    insta::assert_snapshot!(render(Format::Wide), @"
    NODE         ZONE  LABELS
    a            eu-1  tier=gold,x=no
    longer-name  -     -
    ");
}

#[test]
fn json_names_its_version_and_lines_stand_alone() {
    insta::assert_snapshot!(render(Format::Jsonl), @r#"
    {"api_version":"mesh/v1","labels":{"tier":"gold","x":"no"},"node_id":"a","zone":"eu-1"}
    {"api_version":"mesh/v1","labels":{},"node_id":"longer-name","seen":[1,[true,{"k":[]}]],"zone":null}
    "#);
    let document: Value = serde_json::from_str(&render(Format::Json)).expect("one document");
    assert_eq!(document["api_version"], API_VERSION);
    assert_eq!(document["peers"][1]["node_id"], "longer-name");
    assert_eq!(render(Format::Name), "a\nlonger-name\n");
}

#[test]
fn yaml_quotes_what_could_be_taken_for_something_else() {
    insta::assert_snapshot!(render(Format::Yaml), @r#"
    api_version: mesh/v1
    peers:
      - labels:
          tier: gold
          x: "no"
        node_id: a
        zone: eu-1
      - labels: {}
        node_id: longer-name
        seen:
          - 1
          - - true
            - k: []
        zone: null
    "#);
}

#[test]
fn a_name_from_elsewhere_can_not_steer_the_terminal() {
    assert_eq!(plain(&json!("a\u{1b}[2Jb\n")), "a\u{fffd}[2Jb\u{fffd}");
}
