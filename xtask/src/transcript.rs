//! Follows what a machine prints: what has appeared of that which must, what must be typed next, what must not appear.

use std::collections::VecDeque;

use regex_lite::Regex;

use crate::failure::{Doing, Result};
use crate::scenario::Step;

/// Lines that no run may print: an exception or panic of the hypervisor, a guest or a kernel.
const NEVER: [&str; 3] = ["EPITAPH", "panicked at", "Kernel panic"];

/// What has to be done because of what was printed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reaction {
    /// Have QEMU's monitor do this.
    Command(String),
    /// Type this.
    Send(String),
    /// This line must not appear: the run has failed.
    Forbidden(String),
}

impl Reaction {
    fn is_something(&self) -> bool {
        let (Self::Command(text) | Self::Send(text) | Self::Forbidden(text)) = self;
        !text.is_empty()
    }
}

/// The state of a run's conversation.
#[derive(Debug)]
pub(crate) struct Transcript {
    expected: Vec<VecDeque<Regex>>,
    script: VecDeque<(Regex, [Reaction; 2])>,
    forbidden: Vec<Regex>,
    line: Line,
    /// How much of the current line the script has used already.
    used: usize,
}

impl Transcript {
    /// Begins with nothing printed. `allowed` lists lines of those that never may appear which this run provokes.
    pub(crate) fn new(
        expected: &[Vec<String>],
        script: &[Step],
        forbidden: &[String],
        allowed: &[String],
    ) -> Result<Self> {
        let regex = |text: &str| Regex::new(text).doing(format!("the regular expression {text:?}"));
        let sequence = |lines: &Vec<String>| lines.iter().map(|line| regex(line)).collect();
        let step = |step: &Step| {
            let reactions = [
                Reaction::Command(step.monitor.clone()),
                Reaction::Send(step.send.clone()),
            ];
            Ok((regex(&step.expect)?, reactions))
        };
        let never = NEVER
            .into_iter()
            .filter(|line| !allowed.iter().any(|allowed| allowed == line));
        Ok(Self {
            expected: expected.iter().map(sequence).collect::<Result<_>>()?,
            script: script.iter().map(step).collect::<Result<_>>()?,
            forbidden: never
                .chain(forbidden.iter().map(String::as_str))
                .map(regex)
                .collect::<Result<_>>()?,
            line: Line::default(),
            used: 0,
        })
    }

    /// Takes what was printed, in pieces of any size.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Reaction> {
        let mut reactions = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line(&mut reactions);
            } else {
                self.line.push(*byte);
            }
        }
        // A prompt has no newline; a script waits for prompts.
        self.advance_script(&mut reactions);
        reactions
    }

    /// Whether everything expected has appeared and everything in the script was typed.
    pub(crate) fn complete(&self) -> bool {
        self.script.is_empty() && self.expected.iter().all(VecDeque::is_empty)
    }

    /// Whether the script has commands for QEMU's monitor.
    pub(crate) fn uses_monitor(&self) -> bool {
        let mut reactions = self.script.iter().flat_map(|(_, reactions)| reactions);
        reactions.any(|reaction| matches!(reaction, Reaction::Command(text) if !text.is_empty()))
    }

    /// What is still waited for, as a phrase.
    pub(crate) fn missing(&self) -> Option<String> {
        let next = self
            .expected
            .iter()
            .find_map(VecDeque::front)
            .or(self.script.front().map(|(regex, _)| regex))?;
        Some(format!("{:?} did not appear", next.as_str()))
    }

    fn end_line(&mut self, reactions: &mut Vec<Reaction>) {
        self.advance_script(reactions);
        let text = self.line.text();
        for sequence in &mut self.expected {
            if sequence.front().is_some_and(|regex| regex.is_match(&text)) {
                sequence.pop_front();
            }
        }
        if self.forbidden.iter().any(|regex| regex.is_match(&text)) {
            reactions.push(Reaction::Forbidden(text));
        }
        self.line = Line::default();
        self.used = 0;
    }

    fn advance_script(&mut self, reactions: &mut Vec<Reaction>) {
        let text = self.line.text();
        while let Some((regex, _)) = self.script.front() {
            let Some(found) = text.get(self.used..).and_then(|rest| regex.find(rest)) else {
                return;
            };
            self.used += found.end();
            let due = self.script.pop_front().map(|(_, reactions)| reactions);
            reactions.extend(due.into_iter().flatten().filter(Reaction::is_something));
            if found.is_empty() {
                return;
            }
        }
    }
}

/// One line as a person would read it: without carriage returns and without the sequences that set colours.
#[derive(Debug, Default)]
pub(crate) struct Line {
    bytes: Vec<u8>,
    escape: Escape,
}

#[derive(Debug, Default, Eq, PartialEq)]
enum Escape {
    #[default]
    None,
    Begun,
    Control,
}

impl Line {
    /// Adds a byte that is not the line's end.
    pub(crate) fn push(&mut self, byte: u8) {
        match (&self.escape, byte) {
            (Escape::None, 0x1b) => self.escape = Escape::Begun,
            (Escape::Begun, b'[') => self.escape = Escape::Control,
            // ECMA-48 section 5.4: parameters and intermediates are below 0x40, the final byte isn't.
            (Escape::Control, 0x20..=0x3f) => {}
            (Escape::Begun | Escape::Control, _) => self.escape = Escape::None,
            (Escape::None, b'\r') => {}
            (Escape::None, _) => self.bytes.push(byte),
        }
    }

    /// The line so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The lines of `text` as a person would read them.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let read = |text: &str| {
        let mut line = Line::default();
        text.bytes().for_each(|byte| line.push(byte));
        line.text()
    };
    text.split('\n').map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::{Reaction, Transcript};
    use crate::scenario::Step;

    fn transcript(expected: &[&[&str]], script: &[(&str, &str)], forbidden: &[&str]) -> Transcript {
        let expected: Vec<Vec<String>> = expected.iter().map(|lines| strings(lines)).collect();
        let step = |(expect, send): &(&str, &str)| Step {
            expect: (*expect).into(),
            send: (*send).into(),
            monitor: String::new(),
        };
        let script: Vec<Step> = script.iter().map(step).collect();
        Transcript::new(&expected, &script, &strings(forbidden), &[]).unwrap()
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn send(text: &str) -> Reaction {
        Reaction::Send(text.into())
    }

    #[test]
    fn lines_are_expected_in_their_order() {
        let mut transcript = transcript(&[&["one", "^two$"]], &[], &[]);
        assert!(transcript.take(b"two\none more\n").is_empty());
        assert!(!transcript.complete());
        assert!(transcript.missing().unwrap().contains("^two$"));
        transcript.take(b"tw");
        assert!(!transcript.complete());
        transcript.take(b"o\r\n");
        assert!(transcript.complete());
        assert_eq!(transcript.missing(), None);
    }

    #[test]
    fn sequences_are_independent_of_each_other() {
        let mut transcript = transcript(&[&["a1", "a2"], &["b1", "b2"]], &[], &[]);
        transcript.take(b"b1\na1\na2\n");
        assert!(!transcript.complete());
        transcript.take(b"b2\n");
        assert!(transcript.complete());
    }

    #[test]
    fn a_prompt_is_answered_once_and_its_echo_is_not_a_new_prompt() {
        let mut transcript = transcript(&[], &[("# $", "ls\n"), ("# $", "exit\n"), ("bye", "")], &[]);
        assert!(transcript.take(b"/ #").is_empty());
        assert_eq!(transcript.take(b" "), [send("ls\n")]);
        assert!(transcript.take(b"ls\r\nfile\r\n").is_empty());
        assert_eq!(transcript.take(b"/ # "), [send("exit\n")]);
        transcript.take(b"exit\nbye\n");
        assert!(transcript.complete());
    }

    #[test]
    fn the_monitor_is_asked_before_anything_is_typed() {
        let step = Step {
            expect: "# $".into(),
            send: "ls\n".into(),
            monitor: "block_resize disk0 96M".into(),
        };
        let mut transcript = Transcript::new(&[], &[step], &[], &[]).unwrap();
        let command = Reaction::Command("block_resize disk0 96M".into());
        assert_eq!(transcript.take(b"/ # "), [command, send("ls\n")]);
    }

    #[test]
    fn two_answers_can_be_due_on_one_line() {
        let mut transcript = transcript(&[], &[("user: ", "a"), ("word: ", "b")], &[]);
        assert_eq!(transcript.take(b"user: password: "), [send("a"), send("b")]);
    }

    #[test]
    fn colours_are_not_part_of_a_line() {
        let mut transcript = transcript(&[&["^\\(guest\\) ready$"]], &[], &[]);
        transcript.take(b"\x1b[1;32m(guest)\x1b[0m re");
        transcript.take(b"ady\x1b[");
        transcript.take(b"K\r\n");
        assert!(transcript.complete());
    }

    #[test]
    fn what_must_not_appear_is_reported_with_its_line() {
        let mut plain = transcript(&[], &[], &["lost"]);
        assert_eq!(
            plain.take(b"all well\nblock lost\n"),
            [Reaction::Forbidden("block lost".into())]
        );
        assert_eq!(
            plain.take(b"EPITAPH of pCPU 0\n"),
            [Reaction::Forbidden("EPITAPH of pCPU 0".into())]
        );
        let mut provoked = Transcript::new(&[], &[], &[], &strings(&["Kernel panic"])).unwrap();
        assert!(provoked.take(b"Kernel panic - not syncing\n").is_empty());
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut transcript = transcript(&[&["x"]], &[("\u{e9}", "s")], &[]);
        let noise: Vec<u8> = (0..=255).chain(*b"\xc3").collect();
        transcript.take(&noise);
        assert_eq!(transcript.take(b"\n\xc3\xa9"), [send("s")]);
        transcript.take(b"x\n");
        assert!(transcript.complete());
    }

    #[test]
    fn a_wrong_expression_is_named() {
        let error = Transcript::new(&[strings(&["(unclosed"])], &[], &[], &[]).unwrap_err();
        assert!(error.to_string().contains("(unclosed"));
    }
}
