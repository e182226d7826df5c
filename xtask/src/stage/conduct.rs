//! What is said to a machine, and what it has to say: the scenario's words, or those of a user's script.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::Preparation;
use crate::failure::{Doing, Result};
use crate::scenario::{Ends, Expectations, Step, substitute};
use crate::session::Conduct;
use crate::transcript::Transcript;

/// A file for `--script`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ScriptFile {
    #[serde(default)]
    script: Vec<Step>,
    #[serde(default)]
    expect: Expectations,
    #[serde(default)]
    forbid: Vec<String>,
}

impl Preparation<'_> {
    pub(super) fn conduct(&self) -> Result<Conduct> {
        let (scenario, choices) = (self.scenario, self.choices);
        let own = choices.script.as_deref().map(read_script).transpose()?;
        let (script, expect, forbid) = match &own {
            Some(file) => (&file.script, &file.expect, &file.forbid),
            None => (&scenario.script, &scenario.expect, &scenario.forbid),
        };
        // A user at the terminal speaks for the script; a scenario without one expects the same of every run.
        let dialogue = !script.is_empty();
        let silent = choices.interactive && dialogue;
        let mut values = scenario.parameters(choices.full);
        values.insert("folder".into(), self.folder.display().to_string());
        let fill = |text: &String| substitute(text, &values);
        let mut expected = Vec::new();
        if !silent {
            for sequence in expect.sequences() {
                expected.push(sequence.iter().map(fill).collect::<Result<Vec<_>>>()?);
            }
        }
        let mut steps = Vec::new();
        for step in script.iter().filter(|_| !silent) {
            steps.push(Step {
                expect: fill(&step.expect)?,
                send: fill(&step.send)?,
                monitor: fill(&step.monitor)?,
            });
        }
        let timeout = choices
            .timeout
            .or((!silent && !choices.gdb).then_some(scenario.timeout));
        Ok(Conduct {
            transcript: Transcript::new(&expected, &steps, forbid, &scenario.allow)?,
            ends: if choices.xen.is_some() {
                // It does not end the machine when its last domain has ended.
                Ends::WhenSeen
            } else if silent || choices.plain {
                Ends::ByItself
            } else {
                scenario.ends
            },
            timeout: timeout.map(Duration::from_secs),
            interactive: choices.interactive,
            show: choices.show,
            monitor: None,
            log: self.folder.join("console.log"),
        })
    }
}

fn read_script(file: &Path) -> Result<ScriptFile> {
    let text = fs::read_to_string(file).doing(format!("reading {}", file.display()))?;
    toml::from_str(&text).doing(file.display())
}
