//! Joins the layers of settings into one configuration.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use mesh_core::Settings;
use mesh_gossip::GossipConfig;
use serde_json::{Map, Value};
use toml::de::DeValue;

use super::{
    MeshConfig,
    layer::{self, Given, Layer, SettingPath},
    problem::{ConfigError, ConfigProblem},
    source::Source,
};

/// The preset whose values are the defaults.
const PRESET: &str = "lan";
/// The largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Collects where settings come from; [`load`](Self::load) reads them.
///
/// A later layer wins: defaults, preset, file, environment, then [`set`](Self::set).
#[derive(Clone, Debug, Default)]
#[must_use = "call `load` to read the settings"]
pub struct ConfigLoader {
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    set: Vec<(String, String, Source)>,
}

/// A configuration and where each of its values came from.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// The settings; every rule of theirs holds.
    pub config: MeshConfig,
    sources: BTreeMap<SettingPath, Source>,
    preset: Option<(String, Source)>,
}

/// One setting, its effective value and where that came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The path, as `gossip.probe_interval`.
    pub name: String,
    /// The value as JSON; null where nothing is set.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

impl ConfigLoader {
    /// Reads nothing but the defaults yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this TOML file.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Reads the variables `MESH_<SECTION>__<KEY>` of the process.
    ///
    /// Variables that are no UTF-8 are left out.
    pub fn environment(self) -> Self {
        let text = |name: std::ffi::OsString| name.into_string().ok();
        self.variables(std::env::vars_os().filter_map(|(name, value)| text(name).zip(text(value))))
    }

    /// Reads these variables instead of those of the process.
    pub fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        // The process hands them out in no particular order; reports should have one.
        self.environment.sort();
        self
    }

    /// Sets one value, in the way of a file or the environment: `("gossip.rings", "4")`.
    pub fn set(self, name: &str, value: &str) -> Self {
        self.set_from(name, value, Source::Code)
    }

    /// Sets one value and says where it came from, such as an option on the command line.
    pub fn set_from(mut self, name: &str, value: &str, source: Source) -> Self {
        self.set.push((name.to_owned(), value.to_owned(), source));
        self
    }

    /// Reads everything and checks it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Problems`] has everything that is wrong, not just the first.
    pub fn load(self) -> Result<LoadedConfig, ConfigError> {
        let known = known_settings();
        let mut layers = Vec::new();
        if let Some(path) = &self.file {
            layers.push(Layer::from_toml(path, &read(path)?, &known));
        }
        layers.push(Layer::from_environment(self.environment.into_iter(), &known));
        let mut set = Layer::default();
        for (name, text, source) in self.set {
            set.set_text(name.split('.').map(str::to_owned).collect(), text, source, &known);
        }
        layers.push(set);
        join(layers)
    }
}

impl LoadedConfig {
    /// Every setting with its value and source, in the order of their names.
    pub fn settings(&self) -> Vec<Setting> {
        let all = tree(&self.config);
        let is_value = |path: &SettingPath| {
            layer::at(&all, path).is_some_and(|v| v.as_object().is_none_or(Map::is_empty))
        };
        let setting = |path: SettingPath| Setting {
            value: layer::at(&all, &path).cloned().unwrap_or_default(),
            source: self.source(&path),
            name: path.join("."),
        };
        let mut settings: Vec<Setting> =
            layer::walk(&all).into_iter().filter(is_value).map(setting).collect();
        let (preset, source) = self.preset.clone().unwrap_or_else(|| (PRESET.to_owned(), Source::Default));
        settings.push(Setting { name: preset_path().join("."), value: Value::from(preset), source });
        settings.sort_by(|a, b| a.name.cmp(&b.name));
        settings
    }

    /// Where the value of a setting came from.
    pub fn source_of(&self, name: &str) -> Source {
        self.source(&name.split('.').map(str::to_owned).collect::<SettingPath>())
    }

    fn source(&self, path: &[String]) -> Source {
        if let Some(source) = find_source(&self.sources, path) {
            return source;
        }
        match &self.preset {
            Some((preset, _)) if differs_by_preset(preset, path) => Source::Preset(preset.clone()),
            _ => Source::Default,
        }
    }
}

/// The source of a setting, or of the nearest setting around it.
fn find_source(sources: &BTreeMap<SettingPath, Source>, path: &[String]) -> Option<Source> {
    (1..=path.len()).rev().find_map(|length| sources.get(&path[..length])).cloned()
}

/// For a rule about several settings: the first that was set in the section of `path`.
fn source_within(sources: &BTreeMap<SettingPath, Source>, path: &[String]) -> Option<Source> {
    let (_, section) = path.split_last().filter(|(_, section)| section.len() > 1)?;
    sources.iter().find(|(set, _)| set.starts_with(section)).map(|(_, source)| source.clone())
}

/// `gossip.preset` is no setting of the gossip section itself: it picks the
/// defaults that the others start from.
fn preset_path() -> SettingPath {
    vec!["gossip".to_owned(), "preset".to_owned()]
}

fn preset(name: &str) -> Option<MeshConfig> {
    let gossip = match name {
        "lan" => GossipConfig::lan(),
        "wan" => GossipConfig::wan(),
        "local" => GossipConfig::local(),
        _ => return None,
    };
    Some(MeshConfig { gossip, ..MeshConfig::default() })
}

fn differs_by_preset(name: &str, path: &[String]) -> bool {
    preset(name).is_some_and(|changed| {
        layer::at(&tree(&changed), path) != layer::at(&tree(&MeshConfig::default()), path)
    })
}

fn tree(config: &MeshConfig) -> Value {
    serde_json::to_value(config).expect("settings have text keys and finite numbers, so they are JSON")
}

fn known_settings() -> Value {
    let mut known = tree(&MeshConfig::default());
    known["gossip"]["preset"] = Value::from(PRESET);
    known
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes, bytes_max: FILE_BYTES_MAX });
    }
    let mut text = String::new();
    // A pipe has no size beforehand, so the limit holds here as well.
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn join(layers: Vec<Layer>) -> Result<LoadedConfig, ConfigError> {
    let mut problems = Vec::new();
    let mut entries = BTreeMap::new();
    for layer in layers {
        problems.extend(layer.problems);
        entries.extend(layer.entries);
    }
    let (base, preset) = match entries.remove(&preset_path()) {
        None => (MeshConfig::default(), None),
        Some(entry) => {
            let name = match &entry.given {
                Given::Text(text) => text.clone(),
                Given::Typed(Value::String(text)) => text.clone(),
                Given::Typed(other) => other.to_string(),
            };
            match preset(&name) {
                Some(base) => (base, Some((name, entry.source))),
                None => {
                    let text = format!("({name:?}) must be one of \"lan\", \"wan\", \"local\"");
                    let setting = Some(preset_path().join("."));
                    problems.push(ConfigProblem { source: Some(entry.source), setting, text });
                    (MeshConfig::default(), None)
                }
            }
        }
    };

    // Each value is tried alone, so that one bad value does not hide the next.
    let mut joined = tree(&base);
    let defaults = tree(&MeshConfig::default());
    let mut sources = BTreeMap::new();
    for (path, entry) in entries {
        match accepted(&path, &entry.given, layer::at(&defaults, &path)) {
            Ok(value) => {
                put(&mut joined, &path, value);
                sources.insert(path, entry.source);
            }
            Err(text) => {
                problems.push(ConfigProblem {
                    source: Some(entry.source),
                    setting: Some(path.join(".")),
                    text,
                });
            }
        }
    }
    let config: MeshConfig = match serde_json::from_value(joined) {
        Ok(config) => config,
        Err(error) => {
            problems.push(ConfigProblem { source: None, setting: None, text: error.to_string() });
            return Err(ConfigError::Problems(problems));
        }
    };
    for broken in config.problems() {
        // An item of a list came with the whole list.
        let part = |part: &str| part.split('[').next().unwrap_or_default().to_owned();
        let path: SettingPath = broken.setting.split('.').map(part).collect();
        problems.push(ConfigProblem {
            source: find_source(&sources, &path).or_else(|| source_within(&sources, &path)),
            text: format!("({}) {}", broken.value, broken.rule),
            setting: Some(broken.setting),
        });
    }
    if problems.is_empty() {
        return Ok(LoadedConfig { config, sources, preset });
    }
    // In the order in which a person mends them: down the file, then the rest.
    problems.sort_by_key(|problem| match &problem.source {
        Some(Source::File { line, .. }) => *line,
        _ => usize::MAX,
    });
    Err(ConfigError::Problems(problems))
}

/// The value in the setting's own type.
fn accepted(path: &[String], given: &Given, default: Option<&Value>) -> Result<Value, String> {
    let candidates = match given {
        Given::Typed(value) => vec![value.clone()],
        Given::Text(text) => readings(text, default),
    };
    let mut refused = None;
    for candidate in candidates {
        let mut alone = Value::Object(Map::new());
        put(&mut alone, path, candidate.clone());
        match serde_json::from_value::<MeshConfig>(alone) {
            Ok(_) => return Ok(candidate),
            Err(error) => {
                refused
                    .get_or_insert_with(|| format!("({}) {}", short(&candidate), rule(&error.to_string())));
            }
        }
    }
    Err(refused.unwrap_or_else(|| "has no value".to_owned()))
}

/// A serde message as the rule that the value breaks.
fn rule(message: &str) -> String {
    let expected = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "));
    match expected {
        Some((_, "usize" | "u8" | "u16" | "u32" | "u64")) => {
            "must be a whole number, not negative".to_owned()
        }
        Some((_, "a duration")) => "must be a duration, such as 500ms or 2s".to_owned(),
        Some((_, what)) => format!("must be {what}"),
        None => format!("is not allowed: {message}"),
    }
}

/// What a text may mean, the likeliest first; the setting's default shows its type.
fn readings(text: &str, default: Option<&Value>) -> Vec<Value> {
    let string = Value::from(text);
    let literal = DeValue::parse(text.trim()).ok().and_then(|value| layer::json(value.get_ref()).ok());
    let list = || {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Value::from(items.map(Value::from).collect::<Vec<_>>())
    };
    match default {
        Some(Value::String(_)) => vec![string],
        Some(Value::Array(_)) => literal.filter(Value::is_array).into_iter().chain([list()]).collect(),
        Some(Value::Null) | None => [string].into_iter().chain(literal).chain([list()]).collect(),
        Some(_) => literal.into_iter().chain([string]).collect(),
    }
}

fn put(tree: &mut Value, path: &[String], value: Value) {
    let mut here = tree;
    for part in path {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        here = &mut here[part.as_str()];
    }
    *here = value;
}

/// A value cut to a length that fits a line.
fn short(value: &Value) -> String {
    const CHARS_MAX: usize = 80;
    let text = value.to_string();
    if text.chars().count() <= CHARS_MAX {
        return text;
    }
    text.chars().take(CHARS_MAX).chain("…".chars()).collect()
}

/// What a fuzzer calls: the text of a file, then, after a zero byte, lines `NAME=value` of the environment.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let known = known_settings();
    let text = String::from_utf8_lossy(data);
    let (file, environment) = text.split_once('\0').unwrap_or((&text, ""));
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let layers =
        vec![Layer::from_toml(Path::new("fuzzed"), file, &known), Layer::from_environment(variables, &known)];
    match join(layers) {
        Ok(loaded) => {
            let again = serde_json::from_value::<MeshConfig>(tree(&loaded.config));
            assert_eq!(again.ok(), Some(loaded.config.clone()), "settings are written as they are read");
            assert!(!loaded.settings().is_empty());
        }
        Err(error) => assert!(!error.problems().is_empty() && !error.to_string().is_empty()),
    }
}
