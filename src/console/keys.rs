//! What a person can ask for at the console: Ctrl-a, then a key.
//!
//! Where Xen has a key for the same, it is the same. A small letter is about the domain in focus, its capital about all.

/// What a report is about.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Topic {
    /// The keys themselves.
    Keys,
    /// Every domain in a line.
    Domains,
    /// Every vCPU in a line.
    Vcpus,
    /// vCPUs' registers.
    Registers,
    /// Interrupts.
    Interrupts,
    /// IOREQ servers and the requests that they have.
    Servers,
    /// Event channels.
    Events,
    /// What was counted.
    Counters,
    /// What vCPUs did last.
    Trace,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 9] = [
        Self::Keys,
        Self::Domains,
        Self::Vcpus,
        Self::Registers,
        Self::Interrupts,
        Self::Servers,
        Self::Events,
        Self::Counters,
        Self::Trace,
    ];
}

/// A key.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// What is typed.
    pub byte: u8,
    /// What is shown.
    pub topic: Topic,
    /// What that is, for the list of keys.
    pub text: &'static str,
    /// It is about one domain; its capital about all.
    pub one: bool,
}

const fn key(byte: u8, topic: Topic, one: bool, text: &'static str) -> Key {
    Key { byte, topic, text, one }
}

/// Every key that has a report made.
pub const KEYS: [Key; 9] = [
    key(b'?', Topic::Keys, false, "these keys"),
    key(
        b'l',
        Topic::Domains,
        false,
        "list of domains: state, memory, ports, restarts",
    ),
    key(
        b'r',
        Topic::Vcpus,
        false,
        "run queues: what each vCPU does or waits for, how long",
    ),
    key(b'd', Topic::Registers, true, "registers of vCPUs"),
    key(
        b'i',
        Topic::Interrupts,
        true,
        "interrupts: list registers, enabled, pending, active",
    ),
    key(b's', Topic::Servers, true, "IOREQ servers, and who waits for them"),
    key(b'e', Topic::Events, true, "event channels: peers, pending, masked"),
    key(b'c', Topic::Counters, true, "counters of vCPUs and servers"),
    key(b't', Topic::Trace, true, "trace: the last events of vCPUs"),
];

/// What a typed key asks for, and whether of all domains.
pub fn find(byte: u8) -> Option<(Topic, bool)> {
    let key = KEYS
        .iter()
        .find(|key| key.byte == byte || (key.one && key.byte == byte.to_ascii_lowercase()))?;
    Some((key.topic, !key.one || key.byte != byte))
}
