//! By what members are filtered.

use std::borrow::Cow;

use mesh_core::{Health, Member, Verification};
use mesh_transport::edge::{Field, Fields, Filter};

use super::view::{flag, keys, parts};

const FLAG: &[&str] = &["true", "false"];

/// The fields that peers can be filtered by; labels by `label.<name>`.
pub const FILTERS: Fields = Fields {
    list: super::LIST,
    fields: &[
        Field::text("node_id"),
        Field::one_of("state", &["alive", "suspect", "dead", "left"]),
        Field::text("role"),
        Field::one_of("verification", &["direct", "relayed"]),
        Field::one_of("health", &["healthy", "degraded"]),
        Field::text("instance"),
        Field::text("incarnation"),
        Field::text("addresses"),
        Field::text("cluster"),
        Field::text("region"),
        Field::text("zone"),
        Field::text("mesh_version"),
        Field::text("protocols"),
        Field::text("transports"),
        Field::one_of("cordoned", FLAG),
        Field::one_of("draining", FLAG),
    ],
    labels: true,
    reserved: &["limit", "cursor", "watch"],
};

/// Whether a filter keeps a member.
pub(super) fn keeps(filter: &Filter, member: &Member) -> bool {
    filter.is_empty() || filter.keeps(|field| values(member, field), || searched(member))
}

fn values<'m>(member: &'m Member, field: &str) -> Vec<Cow<'m, str>> {
    let one = |text: &'m str| vec![Cow::Borrowed(text)];
    let made = |text: String| vec![Cow::Owned(text)];
    match field {
        "node_id" => one(member.node_id.as_str()),
        "state" => one(member.state.as_str()),
        "role" => one(member.role.as_str()),
        "verification" => one(match member.verification {
            Verification::Direct => "direct",
            Verification::Relayed => "relayed",
        }),
        "health" => one(match member.health {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
        }),
        "instance" => made(member.instance.to_string()),
        "incarnation" => made(member.incarnation.to_string()),
        "addresses" => member.addresses.iter().map(|address| Cow::Owned(address.to_string())).collect(),
        keys::PROTOCOLS | keys::TRANSPORTS => parts(member, field).map(Cow::Borrowed).collect(),
        keys::CORDONED | keys::DRAINING => one(if flag(member, field) { "true" } else { "false" }),
        // The other fields and labels are metadata under their own name.
        _ => member.metadata(field).map(Cow::Borrowed).into_iter().collect(),
    }
}

fn searched(member: &Member) -> Vec<Cow<'_, str>> {
    let mut texts: Vec<Cow<'_, str>> = vec![member.node_id.as_str().into(), member.role.as_str().into()];
    texts.extend(member.addresses.iter().map(|address| Cow::Owned(address.to_string())));
    for key in [keys::CLUSTER, keys::REGION, keys::ZONE, keys::MESH_VERSION] {
        texts.extend(member.metadata(key).map(Cow::Borrowed));
    }
    let labels = member.metadata.iter().filter_map(|(key, value)| {
        key.strip_prefix(keys::LABEL_PREFIX).map(|name| Cow::Owned(format!("{name}={value}")))
    });
    texts.extend(labels);
    texts
}
