//! Contexts: which cluster to talk to, and as whom, kept in the user's own file.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    args::ConnectionArgs,
    failure::{Exit, Failure},
};

/// The file `config.toml` of the command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contexts {
    /// The context that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All contexts by name.
    pub contexts: BTreeMap<String, Context>,
}

/// One cluster and the operator's identity in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Edge addresses of nodes, `host:port`; the first that answers is used.
    pub edge: Vec<String>,
    /// The operator's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities that sign the cluster's certificates, PEM.
    pub trust_bundle: PathBuf,
}

/// A context that options may have changed, ready to be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where it came from, for messages.
    pub name: String,
    /// The cluster and the identity.
    pub context: Context,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

/// The folder of the command's own settings: `MESH_CONFIG_HOME`, else
/// `$XDG_CONFIG_HOME/mesh`, else `~/.config/mesh`.
///
/// # Errors
///
/// None of the variables is set, nor `HOME`.
pub fn home() -> Result<PathBuf, Failure> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("MESH_CONFIG_HOME")
        .or_else(|| variable("XDG_CONFIG_HOME").map(|folder| folder.join("mesh")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".config/mesh")))
        .ok_or_else(|| {
            Failure::new(Exit::Usage, "cannot tell where your contexts are: HOME is not set")
                .next("set MESH_CONFIG_HOME to a folder of your own")
        })
}

impl Contexts {
    /// The file in a folder.
    pub fn path(home: &Path) -> PathBuf {
        home.join("config.toml")
    }

    /// Reads the file; empty if there is none.
    ///
    /// # Errors
    ///
    /// The file can't be read, or is not what this command writes; the line is named.
    pub fn load(home: &Path) -> Result<Self, Failure> {
        let path = Self::path(home);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                let doing = format!("cannot read {}", path.display());
                return Err(Failure::from_error(Exit::Usage, &error).while_doing(doing));
            }
        };
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Failure::new(Exit::Usage, format!("{}:{line}: {}", path.display(), error.message()))
                .next("mend that line, or remove the file and make the context anew")
        })
    }

    /// Replaces the file, so that a crash leaves the old or the new one, whole.
    ///
    /// # Errors
    ///
    /// The folder can't be made or written.
    pub fn save(&self, home: &Path) -> Result<(), Failure> {
        let path = Self::path(home);
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::from_error(Exit::Failed, error)
                .while_doing(format!("cannot write {}", path.display()))
                .next("set MESH_CONFIG_HOME to a folder that you may write")
        };
        let text = toml::to_string(self).map_err(|error| failed(&error))?;
        fs::create_dir_all(home).map_err(|error| failed(&error))?;
        let mut file = tempfile::NamedTempFile::new_in(home).map_err(|error| failed(&error))?;
        file.write_all(text.as_bytes()).map_err(|error| failed(&error))?;
        file.as_file().sync_all().map_err(|error| failed(&error))?;
        file.persist(&path).map_err(|error| failed(&error.error))?;
        Ok(())
    }
}

impl Target {
    /// The context that the options name, with what they change in it.
    ///
    /// # Errors
    ///
    /// There is no such context, or it lacks something that the options don't give.
    pub fn resolve(args: &ConnectionArgs, home: &Path) -> Result<Self, Failure> {
        let contexts = Contexts::load(home)?;
        let named = args.context.clone().or_else(|| contexts.current.clone());
        let found = named.as_ref().and_then(|name| contexts.contexts.get(name));
        if let (Some(name), None) = (&args.context, found) {
            let known: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there are none yet".to_owned() } else { known.join(", ") };
            return Err(Failure::new(
                Exit::Usage,
                format!("there is no context {name:?}; known are: {known}"),
            )
            .next("choose one with --context, or start a cluster with `mesh up`"));
        }
        let pick = |option: &Option<PathBuf>, of: fn(&Context) -> &PathBuf| {
            option.clone().or_else(|| found.map(|context| of(context).clone()))
        };
        let edge = if args.edge.is_empty() {
            found.map(|context| context.edge.clone()).unwrap_or_default()
        } else {
            args.edge.clone()
        };
        let missing = |what: &str, option: &str| {
            Failure::new(Exit::Usage, format!("no {what} is known: there is no current context"))
                .next(format!("start a cluster with `mesh up`, choose one with --context, or give {option}"))
        };
        if edge.is_empty() {
            return Err(missing("edge address", "--edge HOST:PORT"));
        }
        let context = Context {
            edge,
            certificate: pick(&args.certificate, |c| &c.certificate)
                .ok_or_else(|| missing("operator certificate", "--certificate FILE"))?,
            key: pick(&args.key, |c| &c.key).ok_or_else(|| missing("private key", "--key FILE"))?,
            trust_bundle: pick(&args.trust_bundle, |c| &c.trust_bundle)
                .ok_or_else(|| missing("trust bundle", "--trust-bundle FILE"))?,
        };
        Ok(Self { name: named.unwrap_or_else(|| "options".to_owned()), context, timeout: args.timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(edge: &str) -> Context {
        let file = |name: &str| PathBuf::from("/keys").join(name);
        Context {
            edge: vec![edge.to_owned()],
            certificate: file("operator.pem"),
            key: file("operator-key.pem"),
            trust_bundle: file("trust.pem"),
        }
    }

    fn saved() -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("temporary folder");
        let contexts = Contexts {
            current: Some("dev".into()),
            contexts: BTreeMap::from([
                ("dev".into(), context("127.0.0.1:1")),
                ("prod".into(), context("127.0.0.1:2")),
            ]),
        };
        contexts.save(home.path()).expect("save");
        assert_eq!(Contexts::load(home.path()).expect("load"), contexts);
        home
    }

    #[test]
    fn the_current_context_is_used_unless_another_is_named() {
        let home = saved();
        let mut args = ConnectionArgs::default();
        assert_eq!(Target::resolve(&args, home.path()).expect("dev").context, context("127.0.0.1:1"));
        args.context = Some("prod".into());
        assert_eq!(Target::resolve(&args, home.path()).expect("prod").context, context("127.0.0.1:2"));
        args.edge = vec!["127.0.0.1:3".into()];
        assert_eq!(Target::resolve(&args, home.path()).expect("changed").context, context("127.0.0.1:3"));
    }

    #[test]
    fn an_unknown_context_names_the_known_ones() {
        let args = ConnectionArgs { context: Some("test".into()), ..ConnectionArgs::default() };
        let failure = Target::resolve(&args, saved().path()).expect_err("unknown");
        assert_eq!(failure.exit, Exit::Usage);
        insta::assert_snapshot!(failure, @r#"
        error: there is no context "test"; known are: dev, prod
         next: choose one with --context, or start a cluster with `mesh up`
        "#);
    }

    #[test]
    fn without_any_context_the_next_step_is_named() {
        let home = tempfile::tempdir().expect("temporary folder");
        let failure = Target::resolve(&ConnectionArgs::default(), home.path()).expect_err("nothing known");
        insta::assert_snapshot!(failure, @"
        error: no edge address is known: there is no current context
         next: start a cluster with `mesh up`, choose one with --context, or give --edge HOST:PORT
        ");
    }

    #[test]
    fn a_broken_file_is_named_with_its_line() {
        let home = tempfile::tempdir().expect("temporary folder");
        fs::write(Contexts::path(home.path()), "current = \"a\"\n\n[contexts.a]\nedges = []\n")
            .expect("write");
        let failure = Contexts::load(home.path()).expect_err("unknown key");
        assert!(failure.message.contains("config.toml:4: unknown field `edges`"), "{failure}");
    }
}
