//! What Portunus finds and plans on boards that no emulator has: the R-Car H3, by its own device trees where they can be had
//! and always by a reduced one.
//!
//! Mainline's compiled trees are GPL-2.0 and therefore not here: `PORTUNUS_BOARD_DTB` names the folder that has them.

#[path = "board_sim_support/board.rs"]
mod board;
#[path = "board_sim_support/discovery.rs"]
mod discovery;
#[path = "board_sim_support/domains.rs"]
mod domains;
#[path = "manifest_support/source.rs"]
mod source;
#[path = "board_sim_support/wrong.rs"]
mod wrong;
