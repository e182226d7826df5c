//! The whole core on a PC: domains from a manifest, traps and interrupts as a machine would bring them.

#[path = "hypervisor_support/access.rs"]
mod access;
#[path = "hypervisor_support/advisories.rs"]
mod advisories;
#[path = "hypervisor_support/announcements.rs"]
mod announcements;
#[path = "hypervisor_support/backend.rs"]
mod backend;
#[path = "hypervisor_support/control.rs"]
mod control;
#[path = "hypervisor_support/counters.rs"]
mod counters;
#[path = "hypervisor_support/elsewhere.rs"]
mod elsewhere;
#[path = "hypervisor_support/grants.rs"]
mod grants;
#[path = "hypervisor_support/grants_batch.rs"]
mod grants_batch;
#[path = "hypervisor_support/grants_caches.rs"]
mod grants_caches;
#[path = "hypervisor_support/grants_calls.rs"]
mod grants_calls;
#[path = "hypervisor_support/grants_hostile.rs"]
mod grants_hostile;
#[path = "hypervisor_support/grants_life.rs"]
mod grants_life;
#[path = "hypervisor_support/grants_model.rs"]
mod grants_model;
#[path = "hypervisor_support/grants_pinned.rs"]
mod grants_pinned;
#[path = "hypervisor_support/guest.rs"]
mod guest;
#[path = "hypervisor_support/hostile.rs"]
mod hostile;
#[path = "hypervisor_support/hostile_calls.rs"]
mod hostile_calls;
#[path = "hypervisor_support/known.rs"]
mod known;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "hypervisor_support/memory.rs"]
mod memory;
#[path = "hypervisor_support/own_events.rs"]
mod own_events;
#[path = "hypervisor_support/posted.rs"]
mod posted;
#[path = "hypervisor_support/pv_console.rs"]
mod pv_console;
#[path = "hypervisor_support/random.rs"]
mod random;
#[path = "hypervisor_support/requests.rs"]
mod requests;
#[path = "hypervisor_support/restarts.rs"]
mod restarts;
#[path = "hypervisor_support/restarts_served.rs"]
mod restarts_served;
#[path = "hypervisor_support/rests.rs"]
mod rests;
#[path = "hypervisor_support/shadow.rs"]
mod shadow;
#[path = "hypervisor_support/shadow_errors.rs"]
mod shadow_errors;
#[path = "hypervisor_support/shadow_life.rs"]
mod shadow_life;
#[path = "hypervisor_support/shadow_model.rs"]
mod shadow_model;
#[path = "hypervisor_support/shadow_server.rs"]
mod shadow_server;
#[path = "hypervisor_support/sim.rs"]
mod sim;
#[path = "manifest_support/source.rs"]
mod source;
#[path = "hypervisor_support/state_page.rs"]
mod state_page;
#[path = "hypervisor_support/static_memory.rs"]
mod static_memory;
#[path = "hypervisor_support/tables.rs"]
mod tables;
#[path = "hypervisor_support/terminal.rs"]
mod terminal;
#[path = "hypervisor_support/time.rs"]
mod time;
#[path = "hypervisor_support/trace.rs"]
mod trace;
#[path = "hypervisor_support/traps.rs"]
mod traps;
#[path = "hypervisor_support/turns.rs"]
mod turns;
#[path = "hypervisor_support/two_ways.rs"]
mod two_ways;
#[path = "hypervisor_support/wakeups.rs"]
mod wakeups;
#[path = "hypervisor_support/world.rs"]
mod world;
