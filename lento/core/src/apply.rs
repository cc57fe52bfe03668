//! Taking a peer's history: shipments queue, a group of them has its contents staged, and commits as one (design D7,
//! D8). Reintegration and update notification use it alike.

use crate::plan::{content_needed, last_stores};
use crate::{CommitResult, StageResult};
use protocol::{ObjectId, Position, Shipment, limits};
use std::collections::{BTreeMap, VecDeque};

/// Records in one group, unless content that changed meanwhile makes it grow.
const GROUP_RECORDS: usize = 8192;
/// Attempts to fetch something that neither comes nor is explained by a record, before the trees are compared.
const FRUITLESS_ROUNDS: u32 = 40;
/// Rounds after which content that keeps changing is told of.
const RESTLESS_ROUNDS: u32 = 20;
/// Rounds in vain after which the peer is asked for more records than its window allows.
const ROUNDS_TO_SHIP_MORE: u32 = 2;

/// What one peer shipped, and how far it is applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Apply {
    queue: VecDeque<Shipment>,
    /// The end of what was received.
    received: Position,
    /// All up to here is visible.
    pub(crate) applied: Position,
    /// All up to here survives a loss of power.
    pub(crate) durable: Position,
    /// Set while a sync is under way: what it will make durable.
    pub(crate) syncing: Option<Position>,
    /// The first shipments of the queue that commit together.
    group: usize,
    /// The end of what is being committed; outlives a reset, as the commit does.
    committing: Position,
    /// The versions that are staged for the group.
    staged: BTreeMap<ObjectId, Position>,
    phase: Phase,
    fruitless: u32,
    /// Rounds of fetching for this group that ended in waiting.
    rounds: u32,
    /// How often the peer was asked to ship beyond the usual window for this group.
    asked_more: u32,
    /// Why it does not go on, for people; empty if it does.
    pub(crate) stalled: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Phase {
    /// Nothing is under way.
    #[default]
    Idle,
    /// Contents are being fetched.
    Staging,
    /// Some contents changed, or could not be had: tried again at this time, or when more records arrive.
    Waiting { until_ms: u64 },
    /// The group is being committed.
    Committing,
    /// Objects that the group needs are being fetched.
    FetchingMissing,
}

/// What became of a shipment that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits to be applied.
    Queued,
    /// It is applied already: the sender must have missed the acknowledgement, and gets it again.
    Known,
    /// It is queued already, or was sent, beyond a gap, before this host began anew: then it comes again.
    Stale,
    /// More was sent than the window allows.
    TooMany,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Stage(Vec<ObjectId>),
    Commit(Vec<Shipment>),
    FetchMissing(Vec<ObjectId>),
    /// What the source says does not add up with its records: compare.
    Compare,
}

impl Apply {
    /// Begins at what the index says.
    pub(crate) fn new(applied: Position) -> Self {
        Self { received: applied, applied, durable: applied, ..Self::default() }
    }

    /// The connection is new or gone, or a comparison has set the position: what was queued will be sent again. What
    /// the shell is doing goes on, and its answer finds an empty queue.
    pub(crate) fn reset(&mut self, applied: Position) {
        let busy = self.is_busy();
        let phase = if busy { std::mem::take(&mut self.phase) } else { Phase::Idle };
        *self = Self {
            received: applied,
            applied,
            durable: self.durable.min(applied),
            syncing: self.syncing,
            committing: self.committing,
            phase,
            ..Self::default()
        };
    }

    /// Whether the shell has something of ours under way.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Staging | Phase::Committing | Phase::FetchingMissing)
    }

    /// Queues a shipment. One that overlaps with what was received is taken: applying is idempotent.
    pub(crate) fn handle_shipment(&mut self, shipment: Shipment) -> Taken {
        if shipment.upto <= self.applied {
            return Taken::Known;
        }
        if shipment.upto <= self.received || shipment.after > self.received {
            return Taken::Stale;
        }
        if self.queue.len() > limits::SHIPMENTS_AHEAD + 2 * limits::SHIPMENTS_IN_FLIGHT {
            return Taken::TooMany;
        }
        self.received = shipment.upto;
        self.queue.push_back(shipment);
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.phase = Phase::Idle;
            self.grow(usize::MAX);
        }
        Taken::Queued
    }

    fn grow(&mut self, records: usize) {
        let mut sum: usize = self.queue.iter().take(self.group).map(|s| s.records.len()).sum();
        while self.group < self.queue.len()
            && (self.group == 0 || sum + self.queue[self.group].records.len() <= records)
        {
            sum += self.queue[self.group].records.len();
            self.group += 1;
        }
    }

    /// What to do next, if anything; it is then taken to be under way.
    pub(crate) fn poll(&mut self, now_ms: u64) -> Option<Step> {
        match self.phase {
            Phase::Idle => {}
            Phase::Waiting { until_ms } if until_ms <= now_ms => {
                self.phase = Phase::Idle;
                self.grow(usize::MAX);
            }
            _ => return None,
        }
        if self.fruitless >= FRUITLESS_ROUNDS {
            return Some(Step::Compare);
        }
        if self.group == 0 {
            self.grow(GROUP_RECORDS);
        }
        let end = self.queue.iter().take(self.group).next_back()?.upto;
        if let Some(newest) = self.staged.values().max()
            && *newest > end
            && self.group < self.queue.len()
        {
            self.grow(usize::MAX);
        }
        let group = self.queue.iter().take(self.group);
        let end = group.clone().next_back().map_or(end, |s| s.upto);
        let wanted = content_needed(&last_stores(group.clone().flat_map(|s| &s.records)), &self.staged);
        if !wanted.is_empty() {
            self.phase = Phase::Staging;
            return Some(Step::Stage(wanted));
        }
        if self.staged.values().any(|as_of| *as_of > end) {
            // A version newer than the group: its record is on the way.
            self.rounds = self.rounds.saturating_add(1);
            self.phase = Phase::Waiting { until_ms: now_ms + limits::CHANGED_RETRY_MS };
            return None;
        }
        self.phase = Phase::Committing;
        self.committing = end;
        Some(Step::Commit(group.cloned().collect()))
    }

    /// The group's contents were fetched, or not.
    pub(crate) fn handle_staged(&mut self, now_ms: u64, results: BTreeMap<ObjectId, StageResult>) {
        if self.phase != Phase::Staging {
            return;
        }
        self.phase = Phase::Idle;
        if self.queue.is_empty() {
            return;
        }
        let removed = self.removed_by_group();
        let group = self.queue.iter().take(self.group);
        let stores = last_stores(group.flat_map(|s| &s.records));
        let mut wait = None;
        let mut gone = false;
        let mut reason = String::new();
        for (id, result) in results {
            match result {
                StageResult::Staged { as_of } => {
                    self.staged.insert(id, as_of);
                }
                StageResult::Left => {
                    // What the group says of it is all that is known, whatever is staged later.
                    self.staged.extend(stores.get(&id).map(|stored| (id, *stored)));
                }
                StageResult::Gone if removed.contains_key(&id) => {
                    self.staged.insert(id, removed[&id]);
                }
                StageResult::Changed => {
                    wait = wait.max(Some(self.pause()));
                    if self.rounds > RESTLESS_ROUNDS {
                        reason = format!("the content of object {id} does not come to rest at its source");
                    }
                }
                StageResult::Gone => {
                    gone = true;
                    wait = wait.max(Some(limits::CHANGED_RETRY_MS));
                }
                StageResult::NoSpace(shortage) => {
                    wait = wait.max(Some(limits::NO_SPACE_RETRY_MS));
                    reason = shortage;
                }
                StageResult::Failed(why) => {
                    wait = wait.max(Some(limits::NO_SPACE_RETRY_MS));
                    reason = format!("content of object {id} could not be fetched: {why}");
                }
            }
        }
        self.stalled = reason;
        match wait {
            Some(pause) => {
                self.rounds = self.rounds.saturating_add(1);
                self.fruitless += u32::from(gone && self.queue.len() == self.group);
                self.phase = Phase::Waiting { until_ms: now_ms + pause };
            }
            None => {
                self.rounds = 0;
                self.fruitless = 0;
            }
        }
    }

    /// How long to wait for content that is being changed: longer each time, as reading a large file is not free.
    fn pause(&self) -> u64 {
        (limits::CHANGED_RETRY_MS << self.rounds.min(5)).min(limits::NO_SPACE_RETRY_MS)
    }

    /// Objects that the group's records take a name from, and where.
    fn removed_by_group(&self) -> BTreeMap<ObjectId, Position> {
        use protocol::Op;
        let records = self.queue.iter().take(self.group).flat_map(|s| &s.records);
        records
            .filter_map(|record| match &record.op {
                Op::Unlink { id, .. } | Op::Rename { other: Some(id), exchange: false, .. } => {
                    Some((*id, record.position()))
                }
                _ => None,
            })
            .collect()
    }

    /// The group was committed, or not. Returns what must be fetched before it can be.
    pub(crate) fn handle_committed(&mut self, now_ms: u64, result: CommitResult) -> Option<Step> {
        if self.phase != Phase::Committing {
            return None;
        }
        self.phase = Phase::Idle;
        if result != CommitResult::Done && self.group == 0 {
            return None;
        }
        match result {
            CommitResult::Done => {
                // What arrived again since a reset may be among it.
                self.applied = self.applied.max(self.committing);
                self.received = self.received.max(self.applied);
                self.queue.retain(|shipment| shipment.upto > self.committing);
                self.group = 0;
                self.staged.clear();
                self.stalled.clear();
                self.fruitless = 0;
                self.rounds = 0;
                self.asked_more = 0;
            }
            CommitResult::NoSpace(shortage) => {
                self.stalled = shortage;
                self.phase = Phase::Waiting { until_ms: now_ms + limits::NO_SPACE_RETRY_MS };
            }
            CommitResult::Missing(ids) => {
                self.fruitless += 1;
                self.phase = Phase::FetchingMissing;
                return Some(Step::FetchMissing(ids));
            }
            CommitResult::Failed(why) | CommitResult::Misbehaved(why) => {
                self.fruitless += 1;
                // What is staged may be what is wrong: fetch it anew.
                self.staged.clear();
                self.stalled = why;
                self.phase = Phase::Waiting { until_ms: now_ms + limits::NO_SPACE_RETRY_MS };
            }
        }
        None
    }

    /// Missing objects were fetched, or not.
    pub(crate) fn handle_missing_fetched(&mut self, now_ms: u64, result: Result<(), String>) {
        if self.phase != Phase::FetchingMissing {
            return;
        }
        self.phase = Phase::Idle;
        if let Err(why) = result {
            self.stalled = why;
            self.phase = Phase::Waiting { until_ms: now_ms + limits::NO_SPACE_RETRY_MS };
        }
    }

    pub(crate) fn is_fetching_missing(&self) -> bool {
        self.phase == Phase::FetchingMissing
    }

    /// Whether only later records seem to help, and the window may keep them back: told once every few rounds.
    pub(crate) fn poll_ship_more(&mut self) -> bool {
        let stuck = matches!(self.phase, Phase::Waiting { .. }) && self.group == self.queue.len();
        if stuck && self.rounds / ROUNDS_TO_SHIP_MORE > self.asked_more {
            self.asked_more += 1;
            return true;
        }
        false
    }

    /// Shipments received and not yet applied.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        match self.phase {
            Phase::Waiting { until_ms } => Some(until_ms),
            _ => None,
        }
    }
}
