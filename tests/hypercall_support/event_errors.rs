//! What event_channel_op refuses.

use crate::host::{BACKEND, FakeHost, GUEST, STRANGER, VA};
use portunus::abi::HypercallError::{Busy, Invalid, NoDomain, NoEntry, NotPermitted};
use portunus::abi::{evtchn, hypercall};

use crate::errors::{NOBODY, SELF, refused};

#[test]
fn event_channel_op_refuses_bad_ports_and_domains() {
    let mut host = FakeHost::new(BACKEND);
    let attached = {
        let consumer = portunus::evtchn::Consumer::Buffered {
            server: portunus::ids::ServerId(0),
        };
        host.events(BACKEND).alloc_attached(GUEST, consumer).unwrap().0
    };
    let for_stranger = host.events(GUEST).alloc_unbound(STRANGER).unwrap().0;
    macro_rules! row {
        ($what:expr, $op:ident, $payload:expr, $expected:expr) => {
            host.put(VA, &$payload);
            refused(
                &mut host,
                $what,
                hypercall::EVENT_CHANNEL_OP,
                &[evtchn::$op, VA],
                $expected,
            );
        };
    }
    for port in [0, 9, 41, attached, 4096, u32::MAX] {
        row!("send", SEND, evtchn::Port { port }, Invalid);
        row!("close", CLOSE, evtchn::Port { port }, Invalid);
        row!("bind_vcpu", BIND_VCPU, evtchn::BindVcpu { port, vcpu: 0 }, Invalid);
        let request = evtchn::BindInterdomain {
            remote_dom: GUEST.0,
            remote_port: port,
            ..Default::default()
        };
        row!("bind_interdomain", BIND_INTERDOMAIN, request, Invalid);
    }
    for port in [0, attached, 4096, u32::MAX] {
        row!("unmask", UNMASK, evtchn::Port { port }, Invalid);
    }
    row!("bind_vcpu", BIND_VCPU, evtchn::BindVcpu { port: 1, vcpu: 2 }, NoEntry);
    row!(
        "bind_ipi",
        BIND_IPI,
        evtchn::BindIpi {
            vcpu: u32::MAX,
            port: 0
        },
        NoEntry
    );
    row!(
        "bind_virq",
        BIND_VIRQ,
        evtchn::BindVirq {
            virq: 24,
            vcpu: 0,
            port: 0
        },
        Invalid
    );
    row!(
        "bind_virq",
        BIND_VIRQ,
        evtchn::BindVirq {
            virq: 1,
            vcpu: 2,
            port: 0
        },
        NoEntry
    );
    row!(
        "bind_virq",
        BIND_VIRQ,
        evtchn::BindVirq {
            virq: 2,
            vcpu: 0,
            port: 0
        },
        Busy
    );
    let bind = evtchn::BindInterdomain {
        remote_dom: GUEST.0,
        remote_port: for_stranger,
        ..Default::default()
    };
    row!("a port for another", BIND_INTERDOMAIN, bind, Invalid);
    row!(
        "a stranger's port",
        BIND_INTERDOMAIN,
        evtchn::BindInterdomain {
            remote_dom: STRANGER.0,
            ..bind
        },
        NotPermitted
    );
    row!(
        "a port for a stranger",
        ALLOC_UNBOUND,
        evtchn::AllocUnbound {
            dom: SELF,
            remote_dom: 3,
            port: 0
        },
        NotPermitted
    );
    row!(
        "another's port",
        ALLOC_UNBOUND,
        evtchn::AllocUnbound {
            dom: 1,
            remote_dom: 2,
            port: 0
        },
        NotPermitted
    );
    row!(
        "another's status",
        STATUS,
        evtchn::Status {
            dom: 1,
            ..Default::default()
        },
        NotPermitted
    );
    row!(
        "no such port",
        STATUS,
        evtchn::Status {
            dom: SELF,
            port: 641,
            ..Default::default()
        },
        Invalid
    );
    row!("another's reset", RESET, evtchn::Reset { dom: 1 }, NotPermitted);
    for nobody in NOBODY {
        row!(
            "nobody",
            BIND_INTERDOMAIN,
            evtchn::BindInterdomain {
                remote_dom: nobody,
                ..bind
            },
            NoDomain
        );
        row!(
            "nobody",
            ALLOC_UNBOUND,
            evtchn::AllocUnbound {
                dom: nobody,
                remote_dom: 2,
                port: 0
            },
            NoDomain
        );
        row!(
            "nobody",
            ALLOC_UNBOUND,
            evtchn::AllocUnbound {
                dom: SELF,
                remote_dom: nobody,
                port: 0
            },
            NotPermitted
        );
        row!(
            "nobody",
            STATUS,
            evtchn::Status {
                dom: nobody,
                ..Default::default()
            },
            NoDomain
        );
        row!("nobody", RESET, evtchn::Reset { dom: nobody }, NoDomain);
    }
}
