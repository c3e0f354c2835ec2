//! `mesh config validate` and `mesh config show`

use std::process::ExitCode;

use mesh::Source;
use serde_json::{Value, json};

use crate::{
    args::{ConfigCommand, ConfigShowArgs, ConfigSource},
    failure::Failure,
    output::{self, Column, Listing, text_at},
};

const COLUMNS: &[Column] = &[
    Column { title: "SETTING", wide: false, cell: |item| text_at(item, "setting") },
    Column { title: "VALUE", wide: false, cell: |item| text_at(item, "value") },
    Column { title: "SOURCE", wide: false, cell: |item| text_at(item, "source") },
];

pub(super) fn run(command: ConfigCommand) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Validate(source) => validate(&source),
        ConfigCommand::Show(args) => show(&args),
    }
}

fn validate(source: &ConfigSource) -> Result<ExitCode, Failure> {
    let loaded = super::load(source)?;
    let changed = loaded.settings().iter().filter(|setting| setting.source != Source::Default).count();
    let what = match &source.config {
        Some(file) => file.display().to_string(),
        None => "the configuration".to_owned(),
    };
    output::message(format_args!("{what} is valid; {changed} settings differ from the defaults"));
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ConfigShowArgs) -> Result<ExitCode, Failure> {
    let loaded = super::load(&args.source)?;
    let items: Vec<Value> = loaded
        .settings()
        .into_iter()
        .filter(|setting| !args.changed || setting.source != Source::Default)
        .map(|s| json!({ "setting": s.name, "value": s.value, "source": s.source.to_string() }))
        .collect();
    let listing = Listing { kind: "settings", name_key: "setting", columns: COLUMNS, items: &items };
    output::print(&listing.render(args.output.format))?;
    Ok(ExitCode::SUCCESS)
}
