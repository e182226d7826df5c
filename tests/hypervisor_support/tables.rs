//! What the console's keys show.

use portunus::ids::VcpuId;

use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, GUEST, MS, Options, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);

impl Sim {
    /// Presses Ctrl-a and a key: the hypervisor's lines until it says no more.
    fn report(&self, key: u8) -> Vec<String> {
        self.shown();
        self.type_in(&[1, key]);
        let mut text = self.shown();
        let mut silence = 0;
        while silence < 200 {
            self.advance(MS);
            let more = self.shown();
            silence = if more.is_empty() { silence + 1 } else { 0 };
            text += &more;
        }
        let lines = text.split_terminator("\r\n");
        lines
            .map(|line| {
                assert!(line.chars().count() <= 100, "{line}");
                line.strip_prefix("[portunus] ").unwrap_or(line).to_string()
            })
            .collect()
    }
}

#[test]
fn look() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    let _ = server;
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    sim.wfi(B0);
    sim.wfi(S0);
    for key in b"?lrdDiIsSeE" {
        println!("----- {}", *key as char);
        for line in sim.report(*key) {
            println!("{line}");
        }
    }
}
