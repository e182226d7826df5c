//! Runs a machine: follows its console, types what the script or the user says, and decides how the run ended.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing, Result, failed};
use crate::monitor::Monitor;
use crate::scenario::Ends;
use crate::terminal::RawTerminal;
use crate::timeline::{Said, Timeline};
use crate::transcript::{Reaction, Transcript};

/// How long a machine may go on after it printed what it must not, so that the epitaph is complete.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// How long the machine may take to end after the user asked it to.
const FAREWELL: Duration = Duration::from_secs(2);

/// The key that, after Ctrl-a, ends an interactive run.
const QUIT: u8 = b'q';
const CONTROL_A: u8 = 1;

/// How a run is led.
#[derive(Debug)]
pub(crate) struct Conduct {
    /// What must appear and what is typed.
    pub(crate) transcript: Transcript,
    /// When it is over.
    pub(crate) ends: Ends,
    /// After which time it has failed.
    pub(crate) timeout: Option<Duration>,
    /// Whether the user's terminal is the machine's console.
    pub(crate) interactive: bool,
    /// Whether what the machine prints is shown.
    pub(crate) show: bool,
    /// The machine's monitor, if the script uses it.
    pub(crate) monitor: Option<Monitor>,
    /// Where everything that the machine prints is kept.
    pub(crate) log: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Why it failed, if it did.
    pub(crate) reason: Option<String>,
    /// What was printed.
    pub(crate) output: String,
    /// The same as lines, with times.
    pub(crate) lines: Vec<Said>,
    /// How long it took.
    pub(crate) time: Duration,
}

enum Event {
    /// The machine printed this.
    Printed(Vec<u8>),
    /// QEMU itself said this.
    Complaint(Vec<u8>),
    /// The user typed this.
    Typed(Vec<u8>),
    /// The machine's console is closed.
    Closed,
}

/// Whether a user sits at this command.
pub(crate) fn has_user() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Whether what is printed may be coloured.
pub(crate) fn has_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Runs `command` until it ends or has to be ended.
pub(crate) fn run(mut command: Command, conduct: Conduct) -> Result<Ended> {
    let log = File::create(&conduct.log).doing(format!("creating {}", conduct.log.display()))?;
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.doing("starting QEMU")?;
    let (sender, events) = channel();
    if let Some(output) = child.stdout.take() {
        forward(output, sender.clone(), Event::Printed, Some(Event::Closed));
    }
    if let Some(output) = child.stderr.take() {
        forward(output, sender.clone(), Event::Complaint, None);
    }
    let terminal = if conduct.interactive {
        forward(std::io::stdin(), sender, Event::Typed, None);
        Some(RawTerminal::enter())
    } else {
        None
    };
    let started = Instant::now();
    let mut session = Session {
        input: child.stdin.take(),
        deadline: conduct.timeout.map(|timeout| started + timeout),
        verdict: None,
        control_a: false,
        output: Vec::new(),
        started,
        timeline: Timeline::default(),
        complaint: String::new(),
        log,
        conduct,
    };
    session.follow(&events);
    let status = stop(&mut child, session.verdict.is_some());
    drop(terminal);
    let reason = session.judge(status);
    Ok(Ended {
        reason,
        output: String::from_utf8_lossy(&session.output).into_owned(),
        lines: session.timeline.lines().to_vec(),
        time: started.elapsed(),
    })
}

/// Reads `source` on a thread of its own until it ends.
fn forward(
    mut source: impl Read + Send + 'static,
    sender: Sender<Event>,
    event: fn(Vec<u8>) -> Event,
    last: Option<Event>,
) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            // The receiver is gone once the run is over.
            if sender.send(event(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
        last.map(|event| sender.send(event));
    });
}

/// Waits for QEMU, which has ended or will be ended. Its status says something only if it ended by itself.
fn stop(child: &mut Child, by_force: bool) -> Option<ExitStatus> {
    if by_force {
        // It may have ended just now, which is as good.
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    child.wait().ok()
}

/// Why the run stops before the machine ends by itself.
enum Verdict {
    Complete,
    Quit,
    TimedOut(Duration),
    Forbidden(String),
    /// A command of the script could not be done.
    Refused(String),
}

struct Session {
    conduct: Conduct,
    input: Option<ChildStdin>,
    deadline: Option<Instant>,
    verdict: Option<Verdict>,
    control_a: bool,
    output: Vec<u8>,
    started: Instant,
    timeline: Timeline,
    complaint: String,
    log: File,
}

impl Session {
    /// Handles events until the console is closed or the deadline has passed.
    fn follow(&mut self, events: &Receiver<Event>) {
        loop {
            let event = match self.deadline {
                Some(deadline) => events.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Printed(bytes)) => self.printed(&bytes),
                Ok(Event::Complaint(bytes)) => {
                    self.complaint.push_str(&String::from_utf8_lossy(&bytes));
                    self.keep(&bytes);
                }
                Ok(Event::Typed(bytes)) => self.typed(&bytes),
                Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let timeout = self.conduct.timeout.unwrap_or_default();
                    self.verdict.get_or_insert(Verdict::TimedOut(timeout));
                    return;
                }
            }
            if matches!(self.verdict, Some(Verdict::Complete)) {
                return;
            }
        }
    }

    fn printed(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
        self.timeline.take(bytes, self.started.elapsed());
        self.keep(bytes);
        if self.conduct.show {
            let mut screen = std::io::stdout();
            // Nobody looking is no reason to stop.
            let _ = screen.write_all(bytes).and_then(|()| screen.flush());
        }
        for reaction in self.conduct.transcript.take(bytes) {
            match reaction {
                Reaction::Send(text) => self.send(text.as_bytes()),
                Reaction::Command(text) => {
                    let done = match &mut self.conduct.monitor {
                        Some(monitor) => monitor.run(&text),
                        None => failed(format!("there is no monitor for {text:?}")),
                    };
                    if let Err(refused) = done {
                        self.verdict.get_or_insert(Verdict::Refused(refused.to_string()));
                        self.hurry(LAST_WORDS);
                    }
                }
                Reaction::Forbidden(_) if self.conduct.interactive => {}
                Reaction::Forbidden(line) => {
                    if self.verdict.is_none() {
                        self.verdict = Some(Verdict::Forbidden(line));
                        self.hurry(LAST_WORDS);
                    }
                }
            }
        }
        if self.conduct.ends == Ends::WhenSeen && self.verdict.is_none() && self.conduct.transcript.complete() {
            self.verdict = Some(Verdict::Complete);
        }
    }

    fn typed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.control_a && *byte == QUIT {
                // The hypervisor ends the machine on this. If it can't any more, the deadline does.
                self.verdict.get_or_insert(Verdict::Quit);
                self.hurry(FAREWELL);
            }
            self.control_a = *byte == CONTROL_A;
        }
        self.send(bytes);
    }

    fn send(&mut self, bytes: &[u8]) {
        // A machine that has ended takes no input; how it ended is judged later.
        let _ = self
            .input
            .as_mut()
            .map(|input| input.write_all(bytes).and_then(|()| input.flush()));
    }

    fn keep(&mut self, bytes: &[u8]) {
        // The log helps people; a full disk will be noticed elsewhere.
        let _ = self.log.write_all(bytes);
    }

    fn hurry(&mut self, time: Duration) {
        let soon = Instant::now() + time;
        self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
    }

    /// Why the run failed, if it did. `status` is there if the machine ended by itself.
    fn judge(&self, status: Option<ExitStatus>) -> Option<String> {
        match &self.verdict {
            Some(Verdict::Complete | Verdict::Quit) => return None,
            Some(Verdict::Refused(reason)) => return Some(reason.clone()),
            Some(Verdict::Forbidden(line)) => return Some(format!("it printed {:?}", line.trim())),
            Some(Verdict::TimedOut(time)) => {
                let missing = self
                    .conduct
                    .transcript
                    .missing()
                    .unwrap_or("the machine did not end".into());
                return Some(format!("{missing} within {} s", time.as_secs()));
            }
            None => {}
        }
        let status = status?;
        let wanted = match self.conduct.ends {
            Ends::WithError => !status.success(),
            Ends::ByItself | Ends::WhenSeen => status.success(),
        };
        if wanted {
            return if self.conduct.interactive {
                None
            } else {
                self.conduct.transcript.missing()
            };
        }
        let code = status.code().map_or("a signal".into(), |code| format!("status {code}"));
        let complaint = self
            .complaint
            .lines()
            .last()
            .map(|line| format!(": {line}"))
            .unwrap_or_default();
        Some(format!("the machine ended with {code}{complaint}"))
    }
}
