//! The whole cluster in one thread, in virtual time, from one seed (design D14): real engines, a modelled network,
//! store and filter, and the invariants of the design asserted after each step.
//!
//! `INTERMEZZO_SEED=n cargo test -p lento-core --test sim` replays one seed; `INTERMEZZO_SEEDS=n` runs more of them.

mod host;
mod invariants;
mod load;
mod model;
mod net;
mod rng;
mod shell;
mod world;

use std::hash::Hasher;
use std::time::{SystemTime, UNIX_EPOCH};
use world::{Faults, World};

/// Applications write, and faults happen, for so long.
pub(crate) const BUSY_MS: u64 = 20_000;
/// By then all must be at rest.
const REST_MS: u64 = BUSY_MS + 60_000;

const CALM: Faults = Faults { cut: 0, kill_lento: 0, kill_presto: 0, power: 0, overflow: 0, rebuild: 0 };
const STORMY: Faults = Faults { cut: 8, kill_lento: 4, kill_presto: 4, power: 0, overflow: 3, rebuild: 2 };
const POWER: Faults = Faults { cut: 4, kill_lento: 2, kill_presto: 2, power: 3, overflow: 1, rebuild: 0 };
const REBUILDS: Faults = Faults { cut: 2, kill_lento: 1, kill_presto: 1, power: 0, overflow: 0, rebuild: 6 };

fn run(seed: u64, hosts: usize, faults: Faults) -> World {
    let mut world = World::new(seed, hosts, faults);
    while world.now_ms < REST_MS && world.step() {}
    world.check_at_rest();
    world
}

/// Runs `count` seeds: fixed ones, then as many that nobody has seen. A failure prints its seed.
fn run_seeds(name: &str, count: u64, hosts: usize, faults: Faults) -> Vec<World> {
    let var = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds: Vec<u64> = match var("INTERMEZZO_SEED") {
        Some(seed) => vec![seed],
        None => {
            let count = var("INTERMEZZO_SEEDS").unwrap_or(count);
            let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
            (0..count).chain((0..count).map(|n| fresh.wrapping_add(n * 7919))).collect()
        }
    };
    let one = |seed| {
        std::panic::catch_unwind(|| run(seed, hosts, faults)).unwrap_or_else(|cause| {
            eprintln!("{name}: failed with INTERMEZZO_SEED={seed}, {hosts} hosts");
            std::panic::resume_unwind(cause)
        })
    };
    seeds.into_iter().map(one).collect()
}

fn total(worlds: &[World], what: &str) -> u64 {
    worlds.iter().map(|w| w.counts.get(what).copied().unwrap_or(0)).sum()
}

fn assert_happened(worlds: &[World], things: &[&str]) {
    for what in things {
        assert!(total(worlds, what) > 0, "no world saw this happen: {what}");
    }
}

#[test]
fn two_hosts_that_both_write_end_with_the_same_tree() {
    let worlds = run_seeds("calm", 10, 2, CALM);
    assert_happened(&worlds, &["writes", "grants to replicators", "commits", "prefixes checked"]);
}

#[test]
fn nothing_is_lost_in_cuts_and_crashes_of_two_hosts() {
    let worlds = run_seeds("stormy", 40, 2, STORMY);
    assert_happened(&worlds, &["cuts", "Lento killed", "Presto killed", "log overflowed", "comparisons"]);
    assert_happened(&worlds, &["prefixes checked"]);
}

#[test]
fn nothing_is_lost_in_cuts_and_crashes_of_five_hosts() {
    let worlds = run_seeds("stormy", 15, 5, STORMY);
    assert_happened(&worlds, &["cuts", "Lento killed", "Presto killed", "log overflowed", "comparisons"]);
}

#[test]
fn indexes_made_anew_on_either_side_keep_nobody_waiting() {
    let worlds = run_seeds("rebuilds", 40, 2, REBUILDS);
    assert_happened(&worlds, &["index made anew", "comparisons"]);
    let worlds = run_seeds("rebuilds", 15, 4, REBUILDS);
    assert_happened(&worlds, &["index made anew", "comparisons"]);
}

#[test]
fn what_was_durable_survives_losses_of_power() {
    let worlds = run_seeds("power", 40, 3, POWER);
    assert_happened(&worlds, &["power lost", "comparisons"]);
}

#[test]
fn the_same_seed_gives_the_same_digest() {
    let digest = |seed| run(seed, 3, STORMY).digest.finish();
    assert_eq!(digest(7), digest(7));
    assert_ne!(digest(7), digest(8));
}
