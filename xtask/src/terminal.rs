//! The user's terminal, given over to the machine: every key goes there, none is echoed or interpreted here.

use std::process::{Command, Stdio};

/// A terminal that passes every key on; it is as before when this is dropped.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Option<String>,
}

impl RawTerminal {
    /// Switches the terminal on standard input over. Where stty is missing keys arrive line by line.
    pub(crate) fn enter() -> Self {
        let before = stty(&["-g"])
            .map(|settings| settings.trim().to_owned())
            .filter(|settings| !settings.is_empty());
        if before.is_some() {
            // Output is still processed, so that lines of this command end in column one.
            stty(&["raw", "-echo", "opost"]);
        }
        Self { before }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            stty(&[before]);
        }
    }
}

fn stty(arguments: &[&str]) -> Option<String> {
    let output = Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
