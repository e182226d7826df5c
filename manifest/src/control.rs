//! Who may look at other domains, pause, restart and stop them: `portunus,control`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::domain::DomainNode;
use crate::error::{ManifestError, Reason};
use portunus_base::ids::DomainId;

/// The property.
pub(crate) const CONTROL: &str = "portunus,control";

/// The domains that `domain` controls, each once: all others when the property is empty, else those that it names, by
/// phandle or by name.
pub(crate) fn parse(domain: &DomainNode<'_, '_>, nodes: &[DomainNode<'_, '_>]) -> Result<Vec<DomainId>, ManifestError> {
    let node = domain.node;
    let Some(value) = node.property(CONTROL) else {
        return Ok(Vec::new());
    };
    if value.is_empty() {
        let others = nodes.iter().map(|other| other.id).filter(|id| *id != domain.id);
        return Ok(others.collect());
    }
    let mut controlled = Vec::new();
    let mut add = |other: Option<&DomainNode<'_, '_>>, said: String| match other {
        Some(own) if own.id == domain.id => Err(node.error(CONTROL, Reason::NoSuchDomain(own.name.to_string()))),
        Some(other) if controlled.contains(&other.id) => {
            Err(node.error(CONTROL, Reason::Repeated(other.name.to_string())))
        }
        Some(other) => {
            controlled.push(other.id);
            Ok(())
        }
        None => Err(node.error(CONTROL, Reason::NoSuchDomain(said))),
    };
    let named = |name: &str| nodes.iter().find(|other| other.name == name);
    if node.strings(CONTROL).next().and_then(named).is_some() {
        for name in node.strings(CONTROL) {
            add(named(name), name.to_string())?;
        }
    } else if let Ok(Some(phandles)) = node.cells(CONTROL) {
        for phandle in phandles {
            let target = node.tree().by_phandle(phandle);
            let other = target.and_then(|target| nodes.iter().find(|other| other.node.is(target)));
            add(other, alloc::format!("{phandle:#x}"))?;
        }
    } else {
        let said = node.strings(CONTROL).next().unwrap_or_default();
        add(None, said.to_string())?;
    }
    Ok(controlled)
}
