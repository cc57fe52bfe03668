//! `lento status` and `lento fileset list` as tables.

use super::{ago, bytes, count, screen::Paint, words::counted};
use crate::control::{FileSetStatus, HostStatus, MountState, PeerStatus, ReplicaState, ReplicaStatus, Role, Trouble};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use protocol::HostName;
use std::path::Path;

/// A host, its peers and its file sets.
pub(crate) fn host_status(status: &HostStatus, paint: Paint) -> String {
    let mut text = format!(
        "{} on {}, lento {}, pid {}, up {}\n",
        paint.strong(format_args!("host {}", status.host)),
        status.listen,
        status.version,
        status.pid,
        ago(status.uptime_s),
    );
    if !status.peers.is_empty() {
        text += &format!("\n{}\n", peers(&status.peers, paint));
    }
    if status.filesets.is_empty() {
        text += "\nno file sets: see `lento fileset create --help` and `lento replicate --help`\n";
    } else {
        text += &format!("\n{}\n", filesets(&status.filesets, paint));
    }
    let problems = problems(status);
    if !problems.is_empty() {
        text += "\n";
    }
    for problem in problems {
        text += &format!("{} {problem}\n", paint.bad("!"));
    }
    text.trim_end().to_owned()
}

/// What `lento status` prints off a terminal.
pub fn status_text(status: &HostStatus) -> String {
    host_status(status, Paint(false))
}

fn table(head: &[&str], paint: Paint) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(head.iter().map(|word| Cell::new(word).add_attribute(Attribute::Dim)));
    if paint.0 {
        table.enforce_styling().set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.force_no_tty();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn render(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn peers(peers: &[PeerStatus], paint: Paint) -> String {
    let mut table = table(&["PEER", "ADDRESS", "CONNECTION"], paint);
    for peer in peers {
        let (word, colour) = if peer.connected { ("connected", Color::Green) } else { ("disconnected", Color::Red) };
        table.add_row([
            Cell::new(&peer.host),
            Cell::new(&peer.address),
            Cell::new(format!("{word} for {}", ago(peer.since_s))).fg(colour),
        ]);
    }
    render(&table)
}

/// One row a file set, and one more for each further replica.
pub(crate) fn filesets(list: &[FileSetStatus], paint: Paint) -> String {
    let mut table = table(&["FILE SET", "ROLE", "STATE", "PERMIT", "OBJECTS", "MOUNT", "REPLICA", "LAG"], paint);
    for fileset in list {
        let first = fileset.replicas.first();
        let [replica, lag] = replica_cells(first);
        table.add_row([
            Cell::new(&fileset.name).add_attribute(Attribute::Bold),
            Cell::new(role(fileset)),
            state_cell(fileset.state),
            Cell::new(permit(fileset)),
            Cell::new(count(fileset.objects)),
            Cell::new(mount(fileset)),
            replica,
            lag,
        ]);
        for replica in fileset.replicas.iter().skip(1) {
            let [name, lag] = replica_cells(Some(replica));
            let blank = || Cell::new("");
            table.add_row([blank(), blank(), state_cell(replica.state), blank(), blank(), blank(), name, lag]);
        }
    }
    render(&table)
}

/// One row a file set of which this host is a client.
pub(crate) fn caches(list: &[FileSetStatus], paint: Paint) -> String {
    let mut table = table(&["FILE SET", "FILES", "BYTES", "BOUND", "PINNED", "UNSENT", "MISSES", "ACCESS"], paint);
    let mut any = false;
    for fileset in list {
        let Some(cache) = &fileset.cache else { continue };
        any = true;
        table.add_row([
            Cell::new(&fileset.name).add_attribute(Attribute::Bold),
            Cell::new(count(cache.files)),
            Cell::new(bytes(cache.bytes)),
            Cell::new(bytes(cache.bound)),
            Cell::new(count(cache.pinned)),
            Cell::new(count(cache.unsent)),
            Cell::new(count(cache.misses)),
            Cell::new(if cache.read_only { "read-only" } else { "read-write" }),
        ]);
    }
    if any { render(&table) } else { "this host is a client of no file set: see `lento mount --help`".into() }
}

/// The file set on whose mount a path is.
pub(crate) fn fileset_at<'a>(list: &'a [FileSetStatus], path: &Path) -> Option<&'a FileSetStatus> {
    let on = list.iter().filter(|set| path.starts_with(set.mount.dir.as_path()));
    on.max_by_key(|set| set.mount.dir.as_path().as_os_str().len())
}

/// Who may change what is in a file set, and who is told of changes.
pub(crate) fn who(fileset: &FileSetStatus, me: &HostName, paint: Paint) -> String {
    let mut table = table(&["HOST", "ROLE", "PERMIT", "STATE", "LACKS"], paint);
    let permit = |host: &HostName| match () {
        () if fileset.permit.at.as_ref() == Some(host) => "has it",
        () if fileset.permit.waiting.contains(host) => "waits for it",
        () => "-",
    };
    table.add_row([
        Cell::new(me).add_attribute(Attribute::Bold),
        Cell::new(role(fileset)),
        Cell::new(permit(me)),
        state_cell(fileset.state),
        Cell::new(""),
    ]);
    for replica in &fileset.replicas {
        let word = match fileset.role {
            Role::Holder if replica.client => "client",
            Role::Holder => "replica",
            Role::Replicator | Role::Client => "holder",
        };
        let [_, lag] = replica_cells(Some(replica));
        let permit = Cell::new(permit(&replica.host));
        table.add_row([Cell::new(&replica.host), Cell::new(word), permit, state_cell(replica.state), lag]);
    }
    render(&table)
}

fn role(fileset: &FileSetStatus) -> String {
    match fileset.role {
        Role::Holder => "holder".into(),
        Role::Replicator => format!("replica of {}", fileset.holder),
        Role::Client => format!("client of {}", fileset.holder),
    }
}

fn permit(fileset: &FileSetStatus) -> String {
    let at = fileset.permit.at.as_ref().map_or("-", |host| host.as_str());
    match fileset.permit.waiting.len() {
        0 => at.to_owned(),
        waiting => format!("{at}, {waiting} waiting"),
    }
}

fn mount(fileset: &FileSetStatus) -> String {
    let word = match fileset.mount.state {
        MountState::Mounted => return fileset.mount.dir.to_string(),
        MountState::Starting => "starting",
        MountState::Unmounted => "unmounted",
        MountState::Failed => "failed",
    };
    format!("{} ({word})", fileset.mount.dir)
}

fn state_cell(state: ReplicaState) -> Cell {
    let (word, colour) = match state {
        ReplicaState::Live => ("live", Color::Green),
        ReplicaState::Copying => ("copying", Color::Yellow),
        ReplicaState::Comparing => ("comparing", Color::Yellow),
        ReplicaState::Stalled => ("stalled", Color::Red),
        ReplicaState::Disconnected => ("disconnected", Color::Red),
    };
    Cell::new(word).fg(colour)
}

fn replica_cells(replica: Option<&ReplicaStatus>) -> [Cell; 2] {
    let Some(replica) = replica else { return [Cell::new("none"), Cell::new("")] };
    let lag = match (&replica.progress, replica.lag) {
        (Some(progress), _) => {
            let of = |total: Option<u64>| total.map(|n| format!(" of {}", count(n))).unwrap_or_default();
            let word = if progress.files_total.unwrap_or(progress.files) == 1 { "file" } else { "files" };
            format!("{}{} {word}", count(progress.files), of(progress.files_total))
        }
        (None, lag) if lag.records == 0 && lag.bytes == 0 => "none".into(),
        (None, lag) => format!("{}, {}, {:.1} s", counted(lag.records, "record"), bytes(lag.bytes), lag.seconds),
    };
    [Cell::new(&replica.host), Cell::new(lag)]
}

/// All that needs somebody's attention.
fn problems(status: &HostStatus) -> Vec<String> {
    let told = |what: String, trouble: &Trouble| format!("{what}, {} ago: {}", ago(trouble.ago_s), trouble.text);
    let mut list = Vec::new();
    for peer in status.peers.iter().filter(|peer| !peer.connected) {
        list.extend(peer.last_error.as_ref().map(|trouble| told(format!("{}: not connected", peer.host), trouble)));
    }
    for fileset in &status.filesets {
        for replica in &fileset.replicas {
            list.extend(
                replica.reason.as_ref().map(|why| format!("{}: replica {}: {why}", fileset.name, replica.host)),
            );
        }
        if fileset.conflicts > 0 {
            let kept = counted(fileset.conflicts, "file");
            list.push(format!("{}: {kept} kept aside in {}/.intermezzo/conflicts", fileset.name, fileset.store));
        }
        list.extend(fileset.last_error.as_ref().map(|trouble| told(format!("{}: last error", fileset.name), trouble)));
    }
    if let Some(trouble) = &status.last_refusal {
        list.push(told(format!("{} refused; the last", counted(status.refusals, "connection")), trouble));
    }
    list
}
