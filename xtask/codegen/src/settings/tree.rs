//! The settings as a tree: tables, and values with their kind, default and meaning.

use anyhow::{Context, Result, bail};
use syn::{GenericArgument, PathArguments, Type};

use super::source::{Definition, FieldSource, Place, Types};

/// A table of settings, such as `[gossip]` or `[transport.tls]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) doc: String,
    pub(crate) entries: Vec<Entry>,
}

/// One name in a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// What it means, without the default.
    pub(crate) doc: String,
    /// As the comment states it, in Markdown.
    pub(crate) default: Option<String>,
    pub(crate) kind: Kind,
}

/// What a value looks like in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Switch,
    Integer {
        min: i64,
    },
    Number,
    Text,
    /// Text with a meaning of its own: a path, an address, a node id.
    Special(&'static str),
    Duration,
    Time,
    OneOf(Vec<(String, String)>),
    List(Box<Kind>),
    /// Names chosen by the user, each with a value.
    Map(Box<Kind>),
    Table(Table),
}

/// Follows the fields from the type called `root`.
pub(crate) fn read(types: &Types, root: &str) -> Result<Table> {
    match types.find(&Place::default(), root)? {
        Some((place, Definition::Table { doc, fields })) => table(types, place, doc, fields, 0),
        _ => bail!("no struct {root} that derives Deserialize was found"),
    }
}

/// Deeper than this, a type would have to contain itself.
const DEPTH_MAX: usize = 8;

fn table(types: &Types, place: &Place, doc: &str, fields: &[FieldSource], depth: usize) -> Result<Table> {
    if depth > DEPTH_MAX {
        bail!("settings are nested more than {DEPTH_MAX} deep");
    }
    let mut entries = Vec::new();
    for field in fields {
        let kind = kind(types, place, &field.of, depth).with_context(|| format!("setting {}", field.name))?;
        match kind {
            Kind::Table(inner) if field.flatten => entries.extend(inner.entries),
            kind => {
                let (doc, default) = split_default(&field.doc);
                if doc.is_empty() {
                    bail!("setting {} has no comment", field.name);
                }
                entries.push(Entry { name: field.name.clone(), doc, default, kind });
            }
        }
    }
    Ok(Table { doc: doc.to_owned(), entries })
}

fn kind(types: &Types, place: &Place, of: &Type, depth: usize) -> Result<Kind> {
    let Type::Path(path) = of else { bail!("a setting must have a plain type") };
    let segment = path.path.segments.last().context("a type without a name")?;
    let inner: Vec<&Type> = match &segment.arguments {
        PathArguments::AngleBracketed(list) => {
            let types = list.args.iter().filter_map(|argument| match argument {
                GenericArgument::Type(of) => Some(of),
                _ => None,
            });
            types.collect()
        }
        _ => Vec::new(),
    };
    let name = segment.ident.to_string();
    let nested = |of: &Type| kind(types, place, of, depth + 1);
    Ok(match (name.as_str(), inner.as_slice()) {
        ("Option" | "Arc" | "Box", [of]) => nested(of)?,
        ("Vec" | "BTreeSet", [of]) => Kind::List(Box::new(nested(of)?)),
        ("BTreeMap", [_, of]) => Kind::Map(Box::new(nested(of)?)),
        ("bool", _) => Kind::Switch,
        ("u8" | "u16" | "u32" | "u64" | "usize", _) => Kind::Integer { min: 0 },
        ("NonZeroU16" | "NonZeroU32" | "NonZeroU64" | "NonZeroUsize", _) => Kind::Integer { min: 1 },
        ("i32" | "i64", _) => Kind::Integer { min: i64::MIN },
        ("f32" | "f64", _) => Kind::Number,
        ("String" | "str", _) => Kind::Text,
        ("PathBuf", _) => Kind::Special("path"),
        ("SocketAddr", _) => Kind::Special("address with port"),
        ("IpAddr", _) => Kind::Special("IP address"),
        ("NodeId", _) => Kind::Special("node id"),
        ("ClusterName", _) => Kind::Special("cluster name"),
        ("TrustDomain", _) => Kind::Special("trust domain"),
        ("Role", _) => Kind::Special("role"),
        ("Duration", _) => Kind::Duration,
        ("SystemTime" | "WallTime", _) => Kind::Time,
        (name, _) => match types.find(place, name)? {
            Some((place, Definition::Table { doc, fields })) => {
                Kind::Table(table(types, place, doc, fields, depth + 1)?)
            }
            Some((place, Definition::Wrapper { of })) => kind(types, place, of, depth + 1)?,
            Some((_, Definition::Words { words })) => Kind::OneOf(words.clone()),
            None => bail!("the type {name} is not known to mesh-codegen; add it to settings/tree.rs"),
        },
    })
}

/// Splits `What it means. Default: 1s.` into meaning and default.
fn split_default(doc: &str) -> (String, Option<String>) {
    let flat = doc.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    match flat.rsplit_once("Default: ") {
        Some((meaning, default)) => {
            let default = default.trim().trim_end_matches('.');
            (meaning.trim().to_owned(), Some(default.to_owned()))
        }
        None => (flat.trim().to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
        /// All.
        #[derive(Deserialize)]
        pub struct MeshConfig {
            /// Gossip.
            pub gossip: GossipConfig,
        }
        /// Membership.
        #[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(default))]
        pub struct GossipConfig {
            /// Time between
            /// two probes. Default: 1s.
            #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
            pub probe_interval: Duration,
            /// Where to begin. Default: none.
            #[serde(rename = "seeds")]
            pub addresses: Vec<String>,
            /// Which one.
            pub way: Option<Transport>,
            /// How often.
            pub often: Often,
            #[serde(skip)]
            pub hidden: Unknown,
        }
        #[derive(Deserialize)]
        pub struct Often(u32);
        words! {
            /// Ways.
            Transport, "transport", {
                /// The new one.
                Http3 = "h3",
                Http2 = "h2",
            }
        }
    "#;

    fn types(source: &str) -> Types {
        let mut types = Types::default();
        types.add(&Place::default(), source).expect("parses");
        types
    }

    #[test]
    fn fields_are_followed_with_their_meaning_and_default() {
        let table = read(&types(SOURCE), "MeshConfig").expect("reads");
        let Kind::Table(gossip) = &table.entries[0].kind else { panic!("not a table: {table:?}") };
        let names: Vec<&str> = gossip.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["probe_interval", "seeds", "way", "often"]);
        let interval = &gossip.entries[0];
        assert_eq!(
            (interval.doc.as_str(), interval.default.as_deref()),
            ("Time between two probes.", Some("1s"))
        );
        assert_eq!(interval.kind, Kind::Duration);
        assert_eq!(gossip.entries[1].kind, Kind::List(Box::new(Kind::Text)));
        let words = vec![("h3".to_owned(), "The new one.".to_owned()), ("h2".to_owned(), String::new())];
        assert_eq!(gossip.entries[2].kind, Kind::OneOf(words));
        assert_eq!(gossip.entries[3].kind, Kind::Integer { min: 0 });
    }

    #[test]
    fn what_stands_in_for_a_feature_that_is_off_is_not_described() {
        let both = r#"
            #[derive(Deserialize)]
            pub struct MeshConfig { #[doc = "The port."] pub edge: EdgeConfig }
            #[cfg(not(feature = "edge"))]
            #[derive(Deserialize)]
            pub struct EdgeConfig { #[doc = "Where."] pub stub: u16 }
            #[cfg(feature = "edge")]
            #[derive(Deserialize)]
            pub struct EdgeConfig { #[doc = "Where."] pub full: u16 }
        "#;
        let table = read(&types(both), "MeshConfig").expect("reads");
        let Kind::Table(edge) = &table.entries[0].kind else { panic!("not a table: {table:?}") };
        assert_eq!(edge.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["full"]);
    }

    #[test]
    fn an_unknown_type_and_a_missing_comment_are_errors() {
        let unknown = "#[derive(Deserialize)] struct MeshConfig { /// A.\n a: Novel }";
        let error = format!("{:#}", read(&types(unknown), "MeshConfig").expect_err("unknown"));
        assert!(error.contains("Novel") && error.contains("setting a"), "{error}");
        let silent = "#[derive(Deserialize)] struct MeshConfig { a: bool }";
        let error = read(&types(silent), "MeshConfig").expect_err("no comment").to_string();
        assert!(error.contains("no comment"), "{error}");
    }
}
