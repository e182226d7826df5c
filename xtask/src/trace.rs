//! `--trace FILE`: what a machine's trace rings hold when its run has ended, as a file for a viewer or as a picture.
//!
//! QEMU keeps the machine's memory in a file, so that the rings are there however the run ended: by itself, by force, in
//! an epitaph. [`memory`] finds them by the hypervisor's symbols, [`story`] makes lanes and arrows of events, [`chrome`]
//! and [`picture`] write them.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::{Doing, Result, failed};

mod chrome;
mod memory;
mod names;
mod picture;
mod story;
#[cfg(test)]
mod tests;

pub(crate) use memory::MEMORY_FILE;
pub(crate) use story::Story;

/// Options of `cargo xtask run` about the trace.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TraceOptions {
    /// Write what the trace rings hold at the end of the run to FILE; may be repeated. *.json: trace events for Perfetto
    /// (https://ui.perfetto.dev) or chrome://tracing; *.svg: a picture of who waited for whom. See docs/trace.md.
    #[arg(long = "trace", value_name = "FILE", conflicts_with = "plain")]
    files: Vec<PathBuf>,
    /// Show only the last MS milliseconds [default: everything in JSON, as much as is legible in SVG].
    #[arg(long = "trace-last", value_name = "MS", requires = "files", value_parser = milliseconds)]
    last: Option<f64>,
}

fn milliseconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is wanted".into()),
    }
}

/// What a file is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    Json,
    Svg,
}

impl Format {
    fn of(file: &Path) -> Result<Self> {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("json") => Ok(Self::Json),
            Some("svg") => Ok(Self::Svg),
            _ => failed(format!(
                "--trace {}: the name must end in .json or .svg",
                file.display()
            )),
        }
    }
}

impl TraceOptions {
    /// Whether a trace is wanted.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.files.is_empty()
    }

    /// Refuses files of no known kind, before anything is run.
    pub(crate) fn check(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| Format::of(file).map(drop))
    }

    /// Writes the files, and says in lines what is in them.
    pub(crate) fn write(&self, story: &Story) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        for file in &self.files {
            let (text, span) = match Format::of(file)? {
                Format::Json => {
                    let window = story.last(self.last);
                    (chrome::write(story, window)?, window)
                }
                Format::Svg => {
                    let window = self.last.map_or_else(|| story.legible(), |last| story.last(Some(last)));
                    (picture::draw(story, window), window)
                }
            };
            fs::write(file, text).doing(format!("writing {}", file.display()))?;
            findings.push(format!(
                "trace: {}: {} events, {:.3} ms",
                file.display(),
                story.events_in(span),
                span.length() as f64 / 1e6
            ));
        }
        Ok(findings)
    }
}

/// Reads the rings of a machine that has ended: its memory is in `memory`, its hypervisor is `elf`.
pub(crate) fn read(memory: &Path, elf: &Path) -> Result<Story> {
    let rings = memory::read(memory, elf)?;
    if rings.events.iter().all(Vec::is_empty) {
        return failed("the trace is empty: the hypervisor did not come as far as its first guest");
    }
    Ok(Story::tell(rings))
}

/// Checks that the story has these steps, in order: each a regular expression for a line of [`chrome::lines`].
pub(crate) fn expect(story: &Story, steps: &[String]) -> Result<String> {
    let text = chrome::write(story, story.last(None))?;
    let lines = chrome::lines(&text)?;
    let mut rest = lines.iter();
    for step in steps {
        let regex = regex_lite::Regex::new(step).doing(format!("the regular expression {step:?}"))?;
        if !rest.any(|line| regex.is_match(line)) {
            return failed(format!("the trace lacks {step:?}, or has it before what comes first"));
        }
    }
    Ok(format!(
        "trace: {} entries, the expected {} in order",
        lines.len(),
        steps.len()
    ))
}
