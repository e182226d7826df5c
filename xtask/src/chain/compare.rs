//! Whether a device tree that U-Boot made has the domains that it was to have.

use std::collections::BTreeSet;

use portunus::manifest::Tree;
use portunus::manifest::tree::Node;

use super::script::{self, DOMAINS, NODES};
use crate::failure::{Result, failed};

/// Compares the domains in `made` with those in `wanted`: order, nodes, properties, values. Unit addresses do not count, and what
/// refers to a node by phandle in `wanted` does so by name or path in `made`.
pub(crate) fn same_domains(made: &Tree<'_>, wanted: &Tree<'_>) -> Result<()> {
    let [found, expected] = [made, wanted].map(|tree| script::domains(tree).collect::<Vec<_>>());
    same_children("/chosen", &found, &expected, wanted)
}

fn bare<'t>(node: &Node<'t, '_>) -> &'t str {
    node.name().split('@').next().unwrap_or_default()
}

fn same_children(path: &str, made: &[Node<'_, '_>], wanted: &[Node<'_, '_>], tree: &Tree<'_>) -> Result<()> {
    let [found, expected] = [made, wanted].map(|nodes| nodes.iter().map(bare).collect::<Vec<_>>());
    if found != expected {
        return failed(format!("{path} has the nodes {found:?} and should have {expected:?}"));
    }
    for (made, wanted) in made.iter().zip(wanted) {
        let path = format!("{path}/{}", bare(made));
        same_properties(&path, *made, *wanted, tree)?;
        let [made, wanted] = [made, wanted].map(|node| node.children().collect::<Vec<_>>());
        same_children(&path, &made, &wanted, tree)?;
    }
    Ok(())
}

fn same_properties(path: &str, made: Node<'_, '_>, wanted: Node<'_, '_>, tree: &Tree<'_>) -> Result<()> {
    let names = |node: Node<'_, '_>| -> BTreeSet<String> {
        let names = node.properties().map(|(name, _)| name);
        names
            .filter(|name| !matches!(name.as_str(), "phandle" | "linux,phandle"))
            .collect()
    };
    let (found, expected) = (names(made), names(wanted));
    if found != expected {
        return failed(format!(
            "{path} has the properties {found:?} and should have {expected:?}"
        ));
    }
    for name in expected {
        let value = wanted.property(&name).unwrap_or_default();
        let referred = <[u8; 4]>::try_from(value)
            .ok()
            .and_then(|cell| tree.by_phandle(u32::from_be_bytes(cell)));
        let value = match referred {
            Some(node) if DOMAINS.contains(&name.as_str()) => [node.name().as_bytes(), b"\0"].concat(),
            Some(node) if NODES.contains(&name.as_str()) => [node.path().as_bytes(), b"\0"].concat(),
            _ => value.to_vec(),
        };
        if made.property(&name) != Some(&value[..]) {
            return failed(format!("{path}: {name} has another value"));
        }
    }
    Ok(())
}
