//! Finds the types that settings are made of in the source of the crates.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use syn::{
    Attribute, Expr, Field, Fields, Ident, Item, ItemEnum, ItemStruct, Lit, LitStr, Meta, Token, braced,
    parse::{Parse, ParseStream},
};

/// Types that settings may use, by name.
#[derive(Debug, Default)]
pub(crate) struct Types {
    by_name: BTreeMap<String, Vec<(Place, Definition)>>,
}

/// Where a type is defined, for names that several files use.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place {
    krate: String,
    file: String,
}

/// What a type is for a settings file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Definition {
    /// Named settings below one another.
    Table { doc: String, fields: Vec<FieldSource> },
    /// A struct around one value, which is written as that value.
    Wrapper { of: syn::Type },
    /// One of these words.
    Words { words: Vec<(String, String)> },
}

/// A field as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldSource {
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) of: syn::Type,
    pub(crate) flatten: bool,
}

impl Types {
    /// Reads every Rust file below a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut types = Self::default();
        for path in rust_files(folder)? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let file = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            let krate = file.split('/').next().unwrap_or_default().to_owned();
            types
                .add(&Place { krate, file }, &text)
                .with_context(|| format!("cannot parse {}", path.display()))?;
        }
        Ok(types)
    }

    /// Adds the types of one source text.
    pub(crate) fn add(&mut self, place: &Place, text: &str) -> Result<()> {
        // Most files have no settings; parsing them all takes seconds.
        if !text.contains("Deserialize") {
            return Ok(());
        }
        for item in syn::parse_file(text)?.items {
            let (name, definition) = match item {
                Item::Struct(item) if is_setting(&item.attrs) => (item.ident.to_string(), table(&item)?),
                Item::Enum(item) if is_setting(&item.attrs) => (item.ident.to_string(), words(&item)?),
                Item::Macro(item) if item.mac.path.is_ident("words") => {
                    let WordsMacro { name, words } = item.mac.parse_body()?;
                    (name, Definition::Words { words })
                }
                _ => continue,
            };
            self.by_name.entry(name).or_default().push((place.clone(), definition));
        }
        Ok(())
    }

    /// The definition with this name that is nearest to `from`: in its file, in its
    /// crate, anywhere. `None` for a type from elsewhere.
    pub(crate) fn find(&self, from: &Place, name: &str) -> Result<Option<(&Place, &Definition)>> {
        let Some(all) = self.by_name.get(name) else { return Ok(None) };
        let same_file = |place: &Place| place == from;
        let same_crate = |place: &Place| place.krate == from.krate;
        let any = |_: &Place| true;
        let circles: [&dyn Fn(&Place) -> bool; 3] = [&same_file, &same_crate, &any];
        for circle in circles {
            let mut found = all.iter().filter(|(place, _)| circle(place));
            match (found.next(), found.next()) {
                (Some((place, definition)), None) => return Ok(Some((place, definition))),
                (Some(_), Some(_)) => {
                    bail!("several types near {} are called {name}; settings need one", from.file)
                }
                (None, _) => {}
            }
        }
        Ok(None)
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs")
                && path.file_name().is_some_and(|n| n != "tests.rs")
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether it is read from the settings files of a node, which has every feature: what stands in for
/// the type of a feature that is off is not what people write.
fn is_setting(attributes: &[Attribute]) -> bool {
    let stands_in = attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => {
            list.path.is_ident("cfg") && list.tokens.to_string().replace(' ', "").starts_with("not(feature")
        }
        _ => false,
    });
    !stands_in && is_deserialized(attributes)
}

/// Whether `Deserialize` is derived, also as `cfg_attr(feature = "serde", derive(…))`.
fn is_deserialized(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => {
            (list.path.is_ident("derive") || list.path.is_ident("cfg_attr"))
                && list.tokens.to_string().contains("Deserialize")
        }
        _ => false,
    })
}

fn table(item: &ItemStruct) -> Result<Definition> {
    if let Fields::Unnamed(fields) = &item.fields {
        let Some(field) = fields.unnamed.first().filter(|_| fields.unnamed.len() == 1) else {
            bail!("struct {} has several unnamed fields; a setting has one value", item.ident);
        };
        return Ok(Definition::Wrapper { of: field.ty.clone() });
    }
    let case = rename_all(&item.attrs);
    let fields = item.fields.iter().filter(|field| field.ident.is_some() && !has_serde(&field.attrs, "skip"));
    let fields = fields.map(|field| field_source(field, case.as_deref())).collect();
    Ok(Definition::Table { doc: doc(&item.attrs), fields })
}

fn field_source(field: &Field, case: Option<&str>) -> FieldSource {
    let ident = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
    FieldSource {
        name: serde_value(&field.attrs, "rename").unwrap_or_else(|| cased(&ident, case)),
        doc: doc(&field.attrs),
        of: field.ty.clone(),
        flatten: has_serde(&field.attrs, "flatten"),
    }
}

fn words(item: &ItemEnum) -> Result<Definition> {
    let case = rename_all(&item.attrs);
    let word = |variant: &syn::Variant| {
        let name = serde_value(&variant.attrs, "rename")
            .unwrap_or_else(|| cased(&variant.ident.to_string(), case.as_deref()));
        (name, doc(&variant.attrs))
    };
    Ok(Definition::Words { words: item.variants.iter().map(word).collect() })
}

fn rename_all(attributes: &[Attribute]) -> Option<String> {
    serde_value(attributes, "rename_all")
}

/// A name in the case that serde is told to use.
fn cased(name: &str, case: Option<&str>) -> String {
    let Some(separator) = (match case {
        Some("kebab-case") => Some("-"),
        Some("snake_case") => Some("_"),
        Some("lowercase") => Some(""),
        _ => None,
    }) else {
        return name.to_owned();
    };
    let mut out = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            out.push_str(separator);
        }
        out.extend(if letter == '_' {
            separator.chars().collect::<Vec<_>>()
        } else {
            letter.to_lowercase().collect()
        });
    }
    out
}

/// The value of `key = "…"` in any serde attribute.
fn serde_value(attributes: &[Attribute], key: &str) -> Option<String> {
    let tokens = serde_tokens(attributes);
    let at = tokens.iter().position(|token| token == key)?;
    (tokens.get(at + 1).map(String::as_str) == Some("=")).then_some(())?;
    Some(tokens.get(at + 2)?.trim_matches('"').to_owned())
}

fn has_serde(attributes: &[Attribute], key: &str) -> bool {
    serde_tokens(attributes).iter().any(|token| token == key)
}

/// The words of all serde attributes, those inside `cfg_attr` too.
fn serde_tokens(attributes: &[Attribute]) -> Vec<String> {
    let lists = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("serde") => Some(list.tokens.to_string()),
        Meta::List(list) if list.path.is_ident("cfg_attr") => {
            let text = list.tokens.to_string();
            text.find("serde (").or_else(|| text.find("serde(")).map(|at| text[at..].to_owned())
        }
        _ => None,
    });
    let spaced = |text: String| text.replace(['(', ')', ','], " ").replace('=', " = ");
    lists.flat_map(|text| spaced(text).split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The documentation, as one text of lines.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    // Examples are for the API documentation.
    let end = lines.iter().position(|line| line.starts_with("```")).unwrap_or(lines.len());
    lines[..end].join("\n").trim().to_owned()
}

/// `words! { /// doc  Name, "label", { /// doc  Variant = "word", … } }`: a closed set with one spelling each.
struct WordsMacro {
    name: String,
    words: Vec<(String, String)>,
}

impl Parse for WordsMacro {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        input.call(Attribute::parse_outer)?;
        let name = input.parse::<Ident>()?.to_string();
        input.parse::<Token![,]>()?;
        input.parse::<LitStr>()?;
        input.parse::<Token![,]>()?;
        let body;
        braced!(body in input);
        let mut words = Vec::new();
        while !body.is_empty() {
            let attributes = body.call(Attribute::parse_outer)?;
            body.parse::<Ident>()?;
            body.parse::<Token![=]>()?;
            words.push((body.parse::<LitStr>()?.value(), doc(&attributes)));
            body.parse::<Option<Token![,]>>()?;
        }
        input.parse::<Option<Token![,]>>()?;
        Ok(Self { name, words })
    }
}
