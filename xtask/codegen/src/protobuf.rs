//! Rust code for the messages in `crates/*/proto/*.proto`, and for the foreign services in
//! `crates/*/proto/<name>/*.proto`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use prost::Message as _;
use prost_build::Config;

use crate::{Generated, relayed};

/// Goes before the modules of a service's client and server.
const RPC_ONLY: &str = "#[cfg(feature = \"rpc\")]";

/// `src/wire/generated.rs` of every crate that has a `proto` folder.
pub(crate) fn generate(root: &Path) -> Result<Vec<Generated>> {
    let mut files = Vec::new();
    for folder in sorted(&root.join("crates"))? {
        let protos = folder.join("proto");
        if !protos.is_dir() {
            continue;
        }
        files.extend(of_crate(&folder, &protos, &sources(&protos)?)?);
        for foreign in sorted(&protos)?.into_iter().filter(|path| path.is_dir()) {
            files.extend(of_foreign(&folder, &foreign, &sources(&foreign)?)?);
        }
    }
    Ok(files)
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_source = |path: &PathBuf| path.extension().is_some_and(|e| e == "proto");
    Ok(sorted(folder)?.into_iter().filter(is_source).collect())
}

/// Messages and clients of somebody else's service: `proto/<name>` becomes `src/<name>/wire/generated.rs`.
/// The module `<name>` is a feature of its own, so nothing in the file needs one.
fn of_foreign(folder: &Path, protos: &Path, sources: &[PathBuf]) -> Result<Option<Generated>> {
    let name = protos.file_name().unwrap_or_default().to_string_lossy();
    let builder = tonic_prost_build::configure().build_transport(false).build_server(false);
    let Some(code) = compile(builder, protos, sources)? else { return Ok(None) };
    let names = names(&format!("proto/{name}"), sources);
    let path = folder.join("src").join(&*name).join("wire/generated.rs");
    Ok(Some(Generated { path, text: with_header(&names, &code) }))
}

fn of_crate(folder: &Path, protos: &Path, sources: &[PathBuf]) -> Result<Option<Generated>> {
    // Clients and servers of services need tonic; messages alone must build without it.
    let builder = tonic_prost_build::configure()
        .build_transport(false)
        .client_mod_attribute(".", RPC_ONLY)
        .server_mod_attribute(".", RPC_ONLY);
    let Some(code) = compile(builder, protos, sources)? else { return Ok(None) };
    let code = relayed::keep_unknown(&code) + &descriptor_set(protos, sources)?;
    let path = folder.join("src/wire/generated.rs");
    Ok(Some(Generated { path, text: with_header(&names("proto", sources), &code) }))
}

fn compile(
    builder: tonic_prost_build::Builder,
    protos: &Path,
    sources: &[PathBuf],
) -> Result<Option<String>> {
    if sources.is_empty() {
        return Ok(None);
    }
    let descriptors = protox::compile(sources, [protos])
        .with_context(|| format!("cannot compile the .proto files in {}", protos.display()))?;
    let out = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut config = Config::new();
    // Payloads are shared, not copied.
    config.bytes(["."]);
    builder
        .out_dir(out.path())
        .compile_fds_with_config(descriptors, config)
        .with_context(|| format!("cannot generate code for {}", protos.display()))?;
    let written = sorted(out.path())?;
    // One package for each folder; two would need two modules.
    let [code] = written.as_slice() else {
        bail!("the .proto files in {} are of {} packages; one is expected", protos.display(), written.len());
    };
    Ok(Some(fs::read_to_string(code).context("cannot read the generated code")?))
}

/// A constant with the descriptors of a crate that has services, so that others can call them
/// by name; nothing for one that has messages alone.
fn descriptor_set(protos: &Path, sources: &[PathBuf]) -> Result<String> {
    let mut descriptors = protox::compile(sources, [protos])
        .with_context(|| format!("cannot compile the .proto files in {}", protos.display()))?;
    if descriptors.file.iter().all(|file| file.service.is_empty()) {
        return Ok(String::new());
    }
    for file in &mut descriptors.file {
        // Comments and positions.
        file.source_code_info = None;
    }
    let bytes = byte_string(&descriptors.encode_to_vec());
    Ok(format!(
        "/// The descriptors of this package, an encoded `google.protobuf.FileDescriptorSet`.\n\
         {RPC_ONLY}\npub const DESCRIPTOR_SET: &[u8] = {bytes};\n"
    ))
}

/// Bytes as a literal of several lines.
fn byte_string(bytes: &[u8]) -> String {
    const COLUMNS: usize = 100;
    let mut text = "b\"".to_owned();
    let mut column = COLUMNS;
    for &byte in bytes {
        if column >= COLUMNS {
            text.push_str("\\\n    ");
            column = 0;
        }
        // Blanks at the begin of a line would not count.
        let escaped =
            if byte == b' ' { "\\x20".to_owned() } else { std::ascii::escape_default(byte).to_string() };
        column += escaped.len();
        text.push_str(&escaped);
    }
    text + "\""
}

/// The sources, for the first line of a generated file.
fn names(folder: &str, sources: &[PathBuf]) -> String {
    let names = sources.iter().filter_map(|path| path.file_name());
    names.map(|name| format!("{folder}/{}", name.to_string_lossy())).collect::<Vec<_>>().join(", ")
}

fn with_header(sources: &str, code: &str) -> String {
    // Prost's own first line names itself only.
    let code = code.strip_prefix("// This file is @generated by prost-build.\n").unwrap_or(code);
    format!(
        "// Generated from {sources} by `cargo xtask codegen`. Do not edit.\n\
         #![allow(dead_code, missing_docs, unreachable_pub, clippy::all, reason = \"generated\")]\n\n{code}"
    )
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_crate(proto: &str) -> (tempfile::TempDir, Result<Vec<Generated>>) {
        let root = tempfile::tempdir().expect("folder");
        let protos = root.path().join("crates/a/proto");
        fs::create_dir_all(&protos).expect("folders");
        fs::write(protos.join("a.proto"), proto).expect("proto");
        let generated = generate(root.path());
        (root, generated)
    }

    #[test]
    fn a_message_becomes_a_struct_with_its_comment() {
        let (root, files) =
            a_crate("syntax = \"proto3\";\npackage a.v1;\n// A word.\nmessage Word { uint32 id = 1; }\n");
        let files = files.expect("generates");
        assert_eq!(files[0].path, root.path().join("crates/a/src/wire/generated.rs"));
        for part in ["Generated from proto/a.proto", "/// A word.", "pub struct Word", "pub id: u32"] {
            assert!(files[0].text.contains(part), "{part} is not in {}", files[0].text);
        }
    }

    #[test]
    fn a_service_needs_the_rpc_feature_and_its_messages_do_not() {
        let (_root, files) = a_crate(
            "syntax = \"proto3\";\npackage a.v1;\nmessage Word {}\nservice Words { rpc Say(Word) returns (Word); }\n",
        );
        let text = files.expect("generates").remove(0).text;
        for module in ["pub mod words_client", "pub mod words_server"] {
            let at = text.find(module).expect(module);
            assert!(text[..at].contains("feature = \"rpc\""), "{text}");
        }
        let message = text.find("pub struct Word").expect("message");
        assert!(!text[..message].contains("feature"), "{text}");
    }

    #[test]
    fn a_foreign_service_becomes_a_client_without_a_feature_in_its_own_folder() {
        let root = tempfile::tempdir().expect("folder");
        let protos = root.path().join("crates/a/proto/engine");
        fs::create_dir_all(&protos).expect("folders");
        let proto = "syntax = \"proto3\";\npackage enginepb;\nmessage Word {}\nservice Words { rpc Say(Word) returns (Word); }\n";
        fs::write(protos.join("engine.proto"), proto).expect("proto");
        let [file] = generate(root.path()).expect("generates").try_into().expect("one file");
        assert_eq!(file.path, root.path().join("crates/a/src/engine/wire/generated.rs"));
        for part in
            ["Generated from proto/engine/engine.proto", "pub mod words_client", "/enginepb.Words/Say"]
        {
            assert!(file.text.contains(part), "{part} is not in {}", file.text);
        }
        for part in ["words_server", "cfg(feature"] {
            assert!(!file.text.contains(part), "{part} is in {}", file.text);
        }
    }

    #[test]
    fn services_bring_their_descriptors_and_messages_alone_do_not() {
        let words = "syntax = \"proto3\";\npackage a.v1;\n// A word.\nmessage Word {}\n";
        let (_root, files) = a_crate(words);
        assert!(!files.expect("generates")[0].text.contains("DESCRIPTOR_SET"));
        let (_root, files) = a_crate(&format!("{words}service Words {{ rpc Say(Word) returns (Word); }}\n"));
        let text = files.expect("generates").remove(0).text;
        let code = syn::parse_file(&text).expect("Rust");
        let bytes = code.items.iter().find_map(|item| match item {
            syn::Item::Const(constant) if constant.ident == "DESCRIPTOR_SET" => match &*constant.expr {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::ByteStr(bytes), .. }) => Some(bytes.value()),
                _ => None,
            },
            _ => None,
        });
        let set = prost_types::FileDescriptorSet::decode(&*bytes.expect("a constant")).expect("a set");
        assert_eq!((set.file[0].package(), set.file[0].service[0].name()), ("a.v1", "Words"));
        assert!(set.file[0].source_code_info.is_none());
    }

    #[test]
    fn bytes_survive_being_written_as_a_literal() {
        let bytes: Vec<u8> = (0..=255).chain([b' '; 200]).collect();
        let literal: syn::LitByteStr = syn::parse_str(&byte_string(&bytes)).expect("a literal");
        assert_eq!(literal.value(), bytes);
    }

    #[test]
    fn a_mistake_names_the_file() {
        let (_root, files) = a_crate("syntax = \"proto3\";\nmessage Word { uint3 id = 1; }\n");
        assert!(format!("{:#}", files.expect_err("no such type")).contains("proto"));
    }
}
