//! Random operations against a list of connections.

use portunus::abi::HypercallError::{Invalid, NoSpace};
use portunus::evtchn::{PortLimits, Received, Sent, Tables};
use portunus::ids::EventPort;
use portunus::memory::atomic::SharedWords;

use crate::world::{A, B, PENDING, SHARED_A, SHARED_B, World};

/// Two domains with 12 ports each; the model keeps a list of connections.
#[test]
fn random_operations_agree_with_a_naive_model() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Model {
        Free,
        Unbound(usize),
        Connected(usize, usize),
        Ipi,
    }
    const PORTS: usize = 12;
    for seed in 1..60u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % limit
        };
        let mut world = World::with_limits(PortLimits {
            highest: PORTS as u32,
            attached: 0,
        });
        let ids = [A, B];
        let mut model = [[Model::Free; PORTS + 1]; 2];
        let mut pending = [[false; PORTS + 1]; 2];
        for step in 0..400 {
            let me = random(2);
            let port = random(PORTS + 2);
            let peer = random(2);
            let context = format!("seed {seed}, step {step}, domain {me}, port {port}");
            let free = (1..=PORTS).find(|port| model[me][*port] == Model::Free);
            let World { machine, stop, a, b } = &mut world;
            let words = SharedWords {
                memory: &*machine,
                others: &*stop,
            };
            let (local, remote) = if me == 0 { (a, b) } else { (b, a) };
            match random(5) {
                0 => {
                    let expected = free.map(|port| EventPort(port as u32)).ok_or(NoSpace);
                    if random(4) == 0 {
                        assert_eq!(local.bind_ipi(0), expected, "{context}");
                        free.into_iter().for_each(|port| model[me][port] = Model::Ipi);
                    } else {
                        assert_eq!(local.alloc_unbound(ids[peer]), expected, "{context}");
                        free.into_iter().for_each(|port| model[me][port] = Model::Unbound(peer));
                    }
                }
                1 => {
                    let waits = model[peer].get(port) == Some(&Model::Unbound(me)) && port != 0;
                    let expected = match (free, waits) {
                        (None, _) => Err(NoSpace),
                        (Some(_), false) => Err(Invalid),
                        (Some(free), true) => Ok(free),
                    };
                    let mut tables = if me == peer {
                        Tables::Loopback(local)
                    } else {
                        Tables::Pair { local, remote }
                    };
                    let result = tables.bind_interdomain(EventPort(port as u32), &words);
                    assert_eq!(result.map(|bound| bound.port.0 as usize), expected, "{context}");
                    if let Ok(new) = expected {
                        model[me][new] = Model::Connected(peer, port);
                        model[peer][port] = Model::Connected(me, new);
                        pending[me][new] = true;
                    }
                }
                2 => {
                    let entry = model[me]
                        .get(port)
                        .copied()
                        .filter(|_| port != 0)
                        .unwrap_or(Model::Free);
                    let loopback = !matches!(entry, Model::Connected(other, _) if other != me);
                    let mut tables = if loopback {
                        Tables::Loopback(local)
                    } else {
                        Tables::Pair { local, remote }
                    };
                    let result = tables.close(EventPort(port as u32), &words).map(drop);
                    assert_eq!(
                        result,
                        if entry == Model::Free { Err(Invalid) } else { Ok(()) },
                        "{context}"
                    );
                    if let Model::Connected(other, its) = entry {
                        model[other][its] = Model::Unbound(me);
                    }
                    if entry != Model::Free {
                        model[me][port] = Model::Free;
                        pending[me][port] = false;
                    }
                }
                3 => {
                    let entry = model[me]
                        .get(port)
                        .copied()
                        .filter(|_| port != 0)
                        .unwrap_or(Model::Free);
                    let result = local.send(EventPort(port as u32), &words);
                    match (entry, result) {
                        (Model::Free, Err(Invalid)) | (Model::Unbound(_), Ok(Sent::Nobody)) => {}
                        (Model::Ipi, Ok(Sent::Own(_))) => pending[me][port] = true,
                        (Model::Connected(other, its), Ok(Sent::Peer(sender, domain, at))) => {
                            assert_eq!((domain, at.0 as usize), (ids[other], its), "{context}");
                            let receiver = if other == me { local } else { remote };
                            assert!(matches!(receiver.receive(at, sender, &words), Received::Delivered(_)));
                            pending[other][its] = true;
                        }
                        (entry, result) => panic!("{context}: {entry:?} {result:?}"),
                    }
                }
                _ => {
                    // The guest takes all its events.
                    let shared = if me == 0 { SHARED_A } else { SHARED_B };
                    world.clear(shared);
                    pending[me] = [false; PORTS + 1];
                }
            }
            for (domain, shared) in [SHARED_A, SHARED_B].into_iter().enumerate() {
                let bits = world.word(shared, PENDING);
                for (port, expected) in pending[domain].iter().enumerate().skip(1) {
                    assert_eq!(bits >> port & 1 == 1, *expected, "{context}: {domain} {port}");
                }
            }
        }
    }
}
